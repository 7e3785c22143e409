"""Parts of cameras that no running agent is needed for: configs, regions, pictures in a stream, colours, logins."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from moving import HEIGHT, WIDTH
from stand_in_cameras import jpeg_of, yuv420_of

HIGH, WIDE = 4 * HEIGHT, 4 * WIDTH


REGIONS = {
    "none": ([], None),
    "pixels": ([290, 90, 450, 186], (290, 90, 450, 186)),
    "shares": ([0.25, 0.5, 1, 1], (160, 192, 640, 384)),
    "a share of a pixel": ([0.0, 0.0, 0.001, 0.001], (0, 0, 1, 1)),
    "beyond the picture": ([600, 300, 9000, 9000], (600, 300, 640, 384)),
}


@pytest.mark.parametrize("name", REGIONS)
def test_regions_follow_the_size_of_the_picture(name: str) -> None:
    from edgeloop_agent.sources.regions import region_in
    from edgeloop_contract.errors import DataError

    asked, expected = REGIONS[name]
    assert region_in(asked, HIGH, WIDE) == expected
    with pytest.raises(DataError, match=r"\[1000, 0, 2000, 100\] lies outside of a picture of 640×384 pixels"):
        region_in([1000, 0, 2000, 100], HIGH, WIDE)


WRONG = {
    "a region without an inside": ("rpicam", "", "region = [0.5, 0, 0.5, 1]", "has no inside"),
    "a region of three": ("rpicam", "", "region = [0.5, 0, 1]", "write [left, top, right, bottom]"),
    "a region of infinity": ("rpicam", "", "region = [0, 0, inf, 1]", "write [left, top, right, bottom]"),
    "a size of one": ("rpicam", "", "size = [640]", "write [width, height]"),
    "a size that is too large": ("rpicam", "", "size = [99999, 10]", "at most 16384 pixels"),
    "a format that it has not": ("rpicam", "", 'pixel_format = "h264"', "it is mjpeg or yuv420"),
    "rows that are padded": ("rpicam", "", 'pixel_format = "yuv420"\nsize = [600, 480]', "of a width that 128 divides"),
    "a name for a number": ("rpicam", "front", "", "it is the camera's number"),
    "three letters": ("camera", "0", 'pixel_format = "MJP"', "write four letters"),
    "a size of an address": ("camera", "rtsp://cam/1", "size = [640, 480]", "set them in the camera itself"),
    "a password in the address": ("camera", "rtsp://me:pw@cam/1", "", "use username and password_file"),
    "an address of another kind": ("camera", "ftp://cam/1", "", "is not an address; write rtsp:// or rtsps:// or http://HOST/PATH"),
    "a port that is none": ("snapshot", "http://cam:99999/", "", "is not an address"),
    "a path for a picture": ("snapshot", "/tmp/x.jpg", "", "is not an address"),
    "an interval of a stream": ("camera", "0", "interval_seconds = 3", "is for sources of kind snapshot; this one is camera"),
    "a region of a folder": ("watch", ".", "region = [0, 0, 1, 1]", "is for sources of kind camera, rpicam, snapshot, video; this one is watch"),
    "a setting of another name": ("camera", "0", "regoin = [0, 0, 1, 1]", "unknown setting; did you mean region?"),
    "a file": ("camera", "agent.toml", "", 'set kind = "video"'),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_bad_config_is_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeloop_agent.config import load
    from edgeloop_contract.errors import UsageError

    kind, where, text, why = WRONG[name]
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "agent.toml"
    path.write_text(f'bundles = ["m"]\n[source]\nkind = "{kind}"\nwhere = "{where}"\n[source.camera]\n{text}\n')
    with pytest.raises(UsageError) as caught:
        load(path)
    assert why in str(caught.value) and "1 problem:" in str(caught.value), caught.value


def test_jpegs_are_cut_by_their_markers() -> None:
    from edgeloop_agent.sources.jpegs import JpegSplitter, TooLarge

    rng, preview = np.random.default_rng(0), jpeg_of(np.zeros((16, 16, 3), np.uint8))
    noisy = rng.integers(0, 255, (64, 64, 3)).astype(np.uint8)
    pictures = [
        jpeg_of(noisy), jpeg_of(noisy, progressive=True), jpeg_of(noisy, restart_marker_blocks=1), jpeg_of(noisy, comment=b"\xff\xd9\xff\xd8"),
        jpeg_of(noisy, exif=b"Exif\0\0" + preview),
    ]  # fmt: skip
    stream = b"before" + b"".join(pictures)
    for step in (1, 7, 1000, len(stream)):
        splitter = JpegSplitter(1 << 20)
        found = [p for at in range(0, len(stream), step) for p in splitter.feed(stream[at : at + step])]
        assert found == pictures
    for bad in (b"\xff\xd8" + bytes(5000), b"\xff\xd8\xff\xda" + bytes(5000), b"\xff\xd8\xff\xe0\xff\xff" + bytes(5000)):
        splitter = JpegSplitter(4000)
        with pytest.raises(TooLarge):
            list(splitter.feed(bad))
    assert list(JpegSplitter(100).feed(bytes(5000))) == []


def test_colours_of_raw_frames_are_those_of_jpeg() -> None:
    from edgeloop_agent.sources.piped_camera import rgb_of_yuv420

    rng = np.random.default_rng(0)
    squares = rng.integers(0, 256, (12, 20, 3)).astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    squares[:2, :2], squares[2:4, :2], squares[4:6, :2] = (255, 0, 0), (0, 0, 255), (255, 255, 255)
    found = rgb_of_yuv420(yuv420_of(squares), 40, 24)
    assert np.abs(found.astype(int) - squares).max() <= 3


def test_masks_and_points_of_a_region_are_in_the_whole_picture() -> None:
    from edgeloop_agent.box_answers import Box, Point
    from edgeloop_agent.mask_answers import Mask, RunLengths
    from edgeloop_agent.regions import in_whole
    from edgeloop_contract.masks import run_lengths

    part = np.zeros((4, 6), bool)
    part[1:3, 2:5] = True
    mask = Mask("cell", 0.25, 0.9, RunLengths([4, 6], run_lengths(part)))
    box = Box("person", 0.9, [1.25, 2, 3, 4], points=[Point("nose", 0.5, [2, 3])])
    boxes, masks = in_whole([box], [mask], (10, 20, 16, 24), (30, 40))
    assert boxes is not None and boxes[0].box == [11.25, 22, 13, 24] and boxes[0].points[0].point == [12, 23]
    whole = np.zeros((30, 40), bool)
    whole[21:23, 12:15] = True
    assert (masks[0].pixels() == whole).all() and masks[0].share == 0.005


@pytest.mark.parametrize(
    "challenge",
    ["", "Digest", "Digest realm", "Digest nonce=", 'Digest realm="a"', "Negotiate x", "Digest " + "," * 5000, "Digest \xff=\xff"],
)
def test_a_challenge_that_cannot_be_met_is_a_refusal(challenge: str) -> None:
    from edgeloop_agent.sources.http_login import Login

    login = Login("http://cam/a.jpg", "me", "secret")
    assert not login.accept([challenge]) and login.headers() == {}
    assert login.accept(["Negotiate", 'Basic realm="x"']) and login.headers()["authorization"].startswith("Basic ")
    assert login.accept(['Digest realm="x", nonce="1", algorithm="SHA-512-256"'])
    with pytest.raises(ValueError, match="algorithm"):
        login.headers()
    assert not Login("http://cam/a.jpg", "", "").accept(['Basic realm="x"'])


def test_the_service_may_reach_a_camera_that_is_elsewhere() -> None:
    from edgeloop_agent.config import Config, Source
    from edgeloop_agent.install import unit_of

    def unit(kind: str, where: str) -> str:
        return unit_of(Config(bundles=["m"], source=Source(kind=kind, where=where)), Path("/etc/agent.toml"), "edgeloop-agent")

    for kind, where in (("snapshot", "http://cam/a.jpg"), ("camera", "rtsp://cam/1")):
        assert "IPAddressDeny" not in unit(kind, where), where
    assert "IPAddressDeny=any" in unit("camera", "0") and "AF_NETLINK" in unit("rpicam", "0") and "video" in unit("rpicam", "0")
    assert "AF_NETLINK" not in unit("watch", "in")


def test_pauses_grow_and_are_bounded() -> None:
    from edgeloop_agent.sources.backoff import Backoff

    backoff = Backoff(1.0, 8.0)
    for longest in (1, 2, 4, 8, 8, 8):
        assert longest / 2 <= backoff.seconds() <= longest
    backoff.reset()
    assert backoff.seconds() <= 1 and len(Counter(Backoff(1.0, 8.0).seconds() for _ in range(9))) > 1
