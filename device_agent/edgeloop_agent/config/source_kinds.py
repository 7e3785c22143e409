"""The kinds of sources that a config can name. The supervisor reads this table without numpy or any driver."""

from __future__ import annotations

import msgspec


class SourceKind(msgspec.Struct, frozen=True):
    """One row of the table. `path`: module of `edgeloop_agent.sources`, and class.

    `needs_where`: what `source.where` must name; "": it may be left out.
    """

    path: str
    description: str
    needs_where: str = ""
    of_files: bool = False  # recordings wait in files
    of_texts: bool = False  # it can give texts: .txt files, or lines
    of_sound: bool = False  # live sound, which it brings to the model's rate
    of_frames: bool = False  # frames of a camera or a video
    newest: bool = False  # a frame is taken when inference is ready for it: the newest one, never one of a queue


SOURCES = {
    "none": SourceKind("", "nothing: the API alone"),
    "file": SourceKind("files:FileSource", "one file (CSV, NPY, WAV, FLAC, image, JSON lines), then done", "a file", True, True),
    "folder": SourceKind("files:FileSource", "every file of a folder, then done", "a folder", True, True),
    "watch": SourceKind("folder_watch:WatchedFolder", "a folder, and every new file in it", "a folder", True, True),
    "lines": SourceKind(
        "lines:LineSource",
        "CSV or JSON lines from a file, a FIFO, a serial port, or - for standard input",
        "a path, or -",
        False,
        True,
    ),
    "microphone": SourceKind(
        "sound:Microphone", "sound from a device (pip install 'edgeloop[sound]'); where: its name, else the default", of_sound=True
    ),
    "arecord": SourceKind("pcm:Arecord", "sound by ALSA's arecord; where: its device, else the default", of_sound=True),
    "pcm": SourceKind("pcm:Pcm", "raw 16-bit sound from standard input, a FIFO or a file", "a path, or -", of_sound=True),
    "camera": SourceKind(
        "camera:camera",
        "frames of a camera by OpenCV (pip install 'edgeloop[camera]')",
        "a number, a device path, an rtsp:// or http:// address, or a GStreamer pipeline",
        of_frames=True,
        newest=True,
    ),
    "rpicam": SourceKind(
        "piped_camera:rpicam",
        "frames of a Raspberry Pi's camera, by rpicam-vid; where: its number, else 0",
        of_frames=True,
        newest=True,
    ),
    "snapshot": SourceKind(
        "snapshot:snapshots",
        "JPEG pictures of a camera by HTTP (pip install 'edgeloop[images]')",
        "an http:// or https:// address",
        of_frames=True,
        newest=True,
    ),
    "video": SourceKind(
        "video:Video", "every frame of a video file (pip install 'edgeloop[camera]'), then done", "a file", of_frames=True
    ),
    "mqtt": SourceKind("mqtt:Mqtt", "messages of an MQTT topic (pip install 'edgeloop[mqtt]')", "a topic"),
}
