"""`[source]` and `[source.camera]`: where recordings come from, and what is asked of a camera."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from edgeloop_contract.settings import Fraction01, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

__all__ = ["MIB", "Camera", "Name", "Part", "Port", "Source"]

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Name = Annotated[str, msgspec.Meta(min_length=1)]
MIB = 1 << 20


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One table of the file."""


class Camera(Part, frozen=True):
    """What is asked of a camera; what it gives instead is said in the log and on the page. `region` and motion: of videos too."""

    size: list[PositiveInt] = []  # width and height in pixels; none: the camera's own
    rate: NonNegativeFloat = 0.0  # frames a second; 0: the camera's own
    pixel_format: str = ""  # four letters, such as MJPG or YUYV; of rpicam: mjpeg or yuv420
    backend: Literal["", "v4l2", "ffmpeg", "gstreamer"] = ""  # "": V4L2 for numbers and devices, FFmpeg for addresses
    rtsp_transport: Literal["tcp", "udp"] = "tcp"
    open_seconds: PositiveFloat = 10.0  # until the first frame
    read_seconds: PositiveFloat = 5.0  # between two frames; of a snapshot: for the whole of it
    max_reconnect_seconds: PositiveFloat = 30.0  # the longest pause between two attempts; the first is source.poll_seconds
    interval_seconds: PositiveFloat = 1.0  # snapshot: between two requests
    max_bytes: PositiveInt = 16 * MIB  # of one JPEG
    max_pixels: PositiveInt = 16_000_000  # of one frame
    ca_file: str = ""  # snapshot: of the camera's certificate, where no public authority signed it
    region: list[NonNegativeFloat] = []  # left, top, right, bottom: in shares of the picture if none is above 1, else in pixels
    min_motion: Fraction01 = 0.0  # share of the region that must have changed, for a frame to be answered; 0: each frame is
    motion_levels: Annotated[int, msgspec.Meta(ge=1, le=255)] = 12  # of brightness, of 255, that count as a change
    max_silence_seconds: PositiveFloat = 60.0  # without motion, after which a frame is answered all the same


class Source(Part, frozen=True):
    """Where recordings come from. `kind`: a row of source_kinds.py; `where`: a path, a device, an address, a topic."""

    kind: Name = "none"
    where: str = ""
    queue: PositiveInt = 16  # recordings that may wait for inference
    when_full: Literal["", "drop-oldest", "block"] = ""  # "": files wait, and of live sources the oldest recordings are dropped
    poll_seconds: PositiveFloat = 1.0  # of a watched folder; and between attempts at a source that is not available
    settle_seconds: PositiveFloat = 1.0  # without a change of the file, before it is read from a watched folder
    # For files of a watched folder. "delete": delete a file once all of it was answered and the answers are written;
    # "delete-all": delete it in any case, also if it was dropped or refused.
    after: Literal["keep", "delete", "delete-all"] = "keep"
    rate_hz: PositiveInt = 16000  # of a microphone; the bundle's own rate is made of it
    channels: PositiveInt = 1  # of a microphone
    channel: NonNegativeInt = 0  # of a microphone: this one alone, from 1 on; 0: all, mixed where the model takes one
    seconds: PositiveFloat = 1.0  # of sound in one recording
    points: PositiveInt = 1  # lines of numbers in one recording
    hop: NonNegativeInt = 0  # lines between the beginnings of two recordings; 0: `points`
    baud: PositiveInt = 115200  # of a serial port
    every: PositiveInt = 1  # camera, video: only every n-th frame
    host: str = "127.0.0.1"  # of the MQTT broker
    port: Port = 1883
    username: str = ""  # of the MQTT broker, or the camera
    password_file: str = ""  # of the MQTT broker, or the camera; in a file, so that no config contains it
    camera: Camera = Camera()
