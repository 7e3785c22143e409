"""Steps for pictures against the libraries that models were trained with: Pillow, OpenCV, torch, torchvision, TensorFlow."""

from __future__ import annotations

import tracemalloc
from functools import cache
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeloop_contract.errors import DataError
from edgeloop_contract.preprocessing import (
    Bgr,
    CenterCrop,
    Colour,
    Grayscale,
    Letterbox,
    Normalize,
    Resize,
    ResizeShorter,
    Step,
    letterbox_geometry,
    prepare,
)

GOLDENS = Path(__file__).parent.parent / "goldens" / "preprocessing"
PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC, "nearest": Image.Resampling.NEAREST}
CV2 = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
SIDE = st.integers(1, 70)


@cache
def goldens() -> dict[str, np.ndarray]:
    with np.load(GOLDENS / "pictures.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def one(steps: list[Step], image: np.ndarray) -> np.ndarray:
    return prepare(steps, image).values[0]


def apart(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(float) - b.astype(float)).max())


@settings(deadline=None, max_examples=60)
@given(SIDE, SIDE, SIDE, SIDE, st.sampled_from(["bilinear", "bicubic"]))
def test_antialiased_is_pillows_to_the_bit(height: int, width: int, tall: int, wide: int, method: str) -> None:
    """Columns first, then rows: every Pillow up to 12. 13 takes the rows first where the height shrinks much more than the width."""
    image = noise(height, width)
    expected = Image.fromarray(image).resize((wide, height), PILLOW[method]).resize((wide, tall), PILLOW[method])
    found = one([Resize(tall, wide, method, True)], image)
    np.testing.assert_array_equal(found, np.asarray(expected))
    if not (height > tall and height - tall > 2 * (width - wide)):
        np.testing.assert_array_equal(found, np.asarray(Image.fromarray(image).resize((wide, tall), PILLOW[method])))


def test_an_upright_photo_is_within_a_count_of_any_pillows() -> None:
    image = noise(640, 360)
    assert apart(one([ResizeShorter(96)], image), np.asarray(Image.fromarray(image).resize((96, 170), PILLOW["bilinear"]))) <= 1


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 300), SIDE, st.integers(1, 300), SIDE)
def test_nearest_is_pillows_to_the_bit(height: int, width: int, tall: int, wide: int) -> None:
    image = noise(height, width)
    expected = np.asarray(Image.fromarray(image).resize((wide, tall), PILLOW["nearest"]))
    np.testing.assert_array_equal(one([Resize(tall, wide, "nearest")], image), expected)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_a_camera_frame_is_pillows_to_the_bit(method: str) -> None:
    image = noise(720, 1280)
    expected = np.asarray(Image.fromarray(image).resize((224, 160), PILLOW[method]))
    np.testing.assert_array_equal(one([Resize(160, 224, method, True)], image), expected)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(7, 90), (100, 31), (22, 30), (45, 200)])
def test_without_antialiasing_it_is_opencvs_and_torchs(method: str, size: tuple[int, int]) -> None:
    image = noise(45, 61)
    assert apart(one([Resize(*size, method)], image), cv2.resize(image, size[::-1], interpolation=CV2[method])) <= 1
    batch = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(batch, size, mode=method, align_corners=False)[0].permute(1, 2, 0).numpy()
    found = one([Resize(*size, method, dtype="float32")], image)
    assert found.dtype == np.float32 and apart(found, expected) < 5e-3


@pytest.mark.parametrize("channels", [1, 4])
def test_channels_are_resized_by_themselves(channels: int) -> None:
    image = noise(30, 41, channels)
    for step in (Resize(12, 20, "bicubic", True), Resize(50, 20, "nearest"), Letterbox(32, 32), ResizeShorter(9)):
        whole = one([step], image)
        for channel in range(channels):
            np.testing.assert_array_equal(whole[..., [channel]], one([step], image[..., [channel]]))


CASES: dict[str, tuple[list[Step], float]] = {
    "torchvision_imagenet": (
        [ResizeShorter(32), CenterCrop(28, 28), Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 1 / 255)], 1e-6
    ),
    "torchvision_crop_padded": ([CenterCrop(50, 40)], 0),
    "tensorflow_bilinear": ([Resize(20, 90, dtype="float32")], 5e-4),
    "tensorflow_nearest": ([Resize(20, 90, "nearest")], 0),
    "tensorflow_antialias": ([Resize(20, 31, antialias=True, dtype="float32")], 5e-4),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_equal_to_torchvision_and_tensorflow(name: str) -> None:
    steps, allowed = CASES[name]
    found = one(steps, goldens()["image"])
    assert found.dtype == goldens()[name].dtype and apart(found, goldens()[name]) <= allowed


def test_the_shorter_side_of_an_upright_picture() -> None:
    upright = np.ascontiguousarray(goldens()["image"].swapaxes(0, 1))
    np.testing.assert_array_equal(one([ResizeShorter(20)], upright), goldens()["torchvision_resize_tall"])


def letterboxed(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The published recipe of YOLO's exporters, with OpenCV."""
    tall, wide = image.shape[:2]
    ratio = min(height / tall, width / wide)
    new = round(wide * ratio), round(tall * ratio)
    across, down = (width - new[0]) / 2, (height - new[1]) / 2
    scaled = cv2.resize(image, new, interpolation=cv2.INTER_LINEAR)
    sides = round(down - 0.1), round(down + 0.1), round(across - 0.1), round(across + 0.1)
    return cv2.copyMakeBorder(scaled, *sides, cv2.BORDER_CONSTANT, value=(114, 114, 114))


@settings(deadline=None, max_examples=60)
@given(st.integers(20, 70), st.integers(20, 70), st.integers(20, 70), st.integers(20, 70))
def test_letterbox_is_that_of_yolos_exporters(tall: int, wide: int, height: int, width: int) -> None:
    image = noise(tall, wide)
    assert apart(one([Letterbox(height, width)], image), letterboxed(image, height, width)) <= 1


def test_a_box_finds_its_way_back_from_the_letterbox() -> None:
    image, step = np.zeros((90, 200, 3), np.uint8), Letterbox(64, 64, fill=0)
    image[30:60, 50:150] = 255
    place = letterbox_geometry(90, 200, step)
    assert place.left == 0 and place.width == 64 and place.top == 17
    rows, columns = (np.flatnonzero((one([step], image)[..., 0] > 127).any(axis)) for axis in (1, 0))
    box = np.array([rows[0] - place.top, rows[-1] + 1 - place.top, columns[0] - place.left, columns[-1] + 1 - place.left])
    assert np.abs(box / place.scale - [30, 60, 50, 150]).max() <= 1 / place.scale


def test_bgr_crop_and_normalize_by_hand() -> None:
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    np.testing.assert_array_equal(one([Bgr()], image), image[..., [2, 1, 0]])
    np.testing.assert_array_equal(one([CenterCrop(2, 3)], image), image[1:3, 1:4])
    found = one([Normalize([1.0], [2.0])], image)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, (image - 1.0) / 2)


@pytest.mark.parametrize("step", [Resize(5, 3, m, a) for m in PILLOW for a in (False, True)] + [Letterbox(5, 3), ResizeShorter(4)])
def test_constant_and_one_pixel_pictures_stay_constant(step: Step) -> None:
    for shape in ((1, 1), (1, 90), (90, 1), (40, 50)):
        made = one([step], np.full((*shape, 3), 114, np.uint8))
        assert made.size and (made == 114).all()


@pytest.mark.parametrize(
    ("step", "image", "message"),
    [
        (Bgr(), noise(4, 4, 4), "put colour before it"),
        (Bgr(), noise(4, 4)[..., 0], "bgr takes pictures of 3 channels"),
        (Letterbox(4, 4), noise(4, 4)[..., 0], "letterbox takes images"),
        (CenterCrop(4, 4), noise(4, 4)[..., 0], "center_crop takes images"),
        (Resize(4, 4, "nearest"), noise(0, 4), "an empty picture"),
        (ResizeShorter(224), noise(1, 4000), "would become 896000 pixels long"),
        (Normalize([0, 0, 0], [1]), noise(4, 4, 4), "4 channels; normalize has 3"),
        (Resize(4, 4, antialias=True), np.full((2, 2, 3), np.nan), ""),
    ],
)
def test_what_is_no_picture_for_a_step_gets_a_sentence(step: Step, image: np.ndarray, message: str) -> None:
    if not message:
        assert "NaN" in prepare([step], image).refused[0]
        return
    with pytest.raises(DataError, match=message):
        prepare([step], image)


def test_old_recipes_read_and_write_the_same() -> None:
    assert msgspec.json.encode(Resize(4, 5)) == b'{"step":"resize","height":4,"width":5}'
    assert msgspec.json.decode(b'{"step":"resize","height":4,"width":5}', type=Step) == Resize(4, 5)
    for wrong in (b'{"step":"resize","height":4,"width":5,"method":"area"}', b'{"step":"letterbox","height":4,"width":5,"fill":256}',
                  b'{"step":"normalize","mean":[1,2],"std":[1,2,3]}', b'{"step":"normalize","mean":[],"std":[1]}',
                  b'{"step":"normalize","mean":[1],"std":[0]}'):  # fmt: skip
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(wrong, type=Step)


@pytest.mark.long
@pytest.mark.parametrize(
    "steps",
    [[Resize(224, 224)], [Resize(224, 224, antialias=True)], [Resize(640, 640, "bicubic")], [Letterbox(640, 640)],
     [ResizeShorter(256), CenterCrop(224, 224)], [Colour(), Grayscale(), Resize(96, 96)]],
)  # fmt: skip
def test_a_hundred_megapixels_take_bounded_memory(steps: list[Step]) -> None:
    image = np.full((8192, 12288, 3), 90, np.uint8)
    tracemalloc.start()
    made = one(steps, image)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (made[made != 114] == 90).all() and peak < 250e6
