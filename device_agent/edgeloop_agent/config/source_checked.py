"""What is wrong with `[source]`: cameras and microphones, in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator
from urllib.parse import urlsplit

import msgspec

from edgeloop_agent.config.settings import Config
from edgeloop_agent.config.source_kinds import SOURCES
from edgeloop_agent.config.source_settings import Camera, Source

__all__ = ["problems_of_source"]

MAX_SIDE = 16384  # pixels
RPICAM_FORMATS = ("", "mjpeg", "yuv420")
YUV_WIDTH = 128  # pixels: the Pi 5 pads rows of YUV 4:2:0 to so many, earlier ones to half of it
OPENED = ("size", "rate", "pixel_format", "open_seconds", "read_seconds", "max_reconnect_seconds", "max_pixels")
SEEN = ("region", "min_motion", "motion_levels", "max_silence_seconds")
OF_KINDS = {
    "camera": (*OPENED, *SEEN, "backend", "rtsp_transport"),
    "rpicam": (*OPENED, *SEEN, "max_bytes"),
    "snapshot": (*OPENED[3:], *SEEN, "interval_seconds", "max_bytes", "ca_file"),
    "video": SEEN,
}
DEFAULTS = {
    field.name: field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    for field in msgspec.structs.fields(Camera)
}
SCHEMES = {"camera": ("rtsp", "rtsps", "http", "https", "udp", "tcp", "srt"), "snapshot": ("http", "https")}


def problems_of_source(config: Config) -> Iterator[str]:
    """One sentence for each contradiction of `[source]`."""
    source = config.source
    if source.kind not in SOURCES:
        return
    for name, default in DEFAULTS.items():
        if getattr(source.camera, name) != default and name not in OF_KINDS.get(source.kind, ()):
            kinds = ", ".join(kind for kind, names in OF_KINDS.items() if name in names)
            yield f"source.camera.{name}: is for sources of kind {kinds}; this one is {source.kind}"
    if SOURCES[source.kind].newest and source.when_full:
        yield f"source.when_full: a {source.kind} gives its newest frame when inference is ready; take the setting out"
    if source.channel > source.channels:
        yield f"source.channel: {source.channel}, and source.channels is {source.channels}; count from 1"
    yield from _of_shapes(source.camera)
    if source.kind in SCHEMES:
        yield from _of_address(source)
    if source.kind == "camera" and source.camera.pixel_format and not _is_fourcc(source.camera.pixel_format):
        yield f"source.camera.pixel_format: {source.camera.pixel_format!r}; write four letters, such as MJPG or YUYV"
    if source.kind == "rpicam":
        yield from _of_rpicam(source)


def _of_shapes(camera: Camera) -> Iterator[str]:
    if camera.size and (len(camera.size) != 2 or max(camera.size) > MAX_SIDE):
        yield f"source.camera.size: {camera.size}; write [width, height], each of at most {MAX_SIDE} pixels"
    region = camera.region
    if not region:
        return
    if len(region) != 4 or not all(map(math.isfinite, region)):
        yield f"source.camera.region: {region}; write [left, top, right, bottom], in pixels or in shares of the picture"
    elif region[0] >= region[2] or region[1] >= region[3]:
        yield f"source.camera.region: {region} has no inside; write [left, top, right, bottom]"


def _of_address(source: Source) -> Iterator[str]:
    camera, where = source.camera, source.where
    if source.username and "://" not in where:
        yield "source.username: a name is for cameras with an address; take it out"
    if source.password_file and not source.username:
        yield "source.password_file: a password without a username; set username too"
    if ("://" not in where and source.kind == "camera") or not where:
        return
    try:
        parts = urlsplit(where)
        known = parts.scheme in SCHEMES[source.kind] and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is none
        known, parts = False, urlsplit("")
    if parts.username is not None or parts.password is not None:
        yield "source.where: an address with a name or password in it; use username and password_file"
    elif not known and not (source.kind == "camera" and "!" in where):
        words = ":// or ".join(SCHEMES[source.kind][: 3 if source.kind == "camera" else 2])
        yield f"source.where: {where!r} is not an address; write {words}://HOST/PATH"
    elif source.kind == "camera" and "!" not in where and (camera.size or camera.rate or camera.pixel_format):
        yield "source.camera: size, rate and pixel_format cannot be asked of an address; set them in the camera itself"


def _is_fourcc(text: str) -> bool:
    return len(text) == 4 and text.isascii() and text.isprintable()


def _of_rpicam(source: Source) -> Iterator[str]:
    camera = source.camera
    if source.where and not (source.where.isascii() and source.where.isdecimal()):
        yield f"source.where: {source.where!r}; of rpicam it is the camera's number, such as 0"
    if camera.pixel_format not in RPICAM_FORMATS:
        yield f"source.camera.pixel_format: {camera.pixel_format!r}; of rpicam it is mjpeg or yuv420"
    elif camera.pixel_format == "yuv420" and (len(camera.size) != 2 or camera.size[0] % YUV_WIDTH or camera.size[1] % 2):
        yield f"source.camera.size: yuv420 needs one, of a width that {YUV_WIDTH} divides, and an even height"
