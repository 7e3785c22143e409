"""Masks as data, their augmentation, the loss and the measure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgeloop_contract.boxes import placement
from edgeloop_contract.errors import DataError
from edgeloop_contract.masks import NOWHERE
from edgeloop_contract.preprocessing import CenterCrop, Colour, Letterbox, Resize
from edgeloop_pipeline.data.augmentations import augment_masks, augment_upright_masks
from edgeloop_pipeline.data.datasets import PictureMasks
from edgeloop_pipeline.data.masks import mask_in_sample
from edgeloop_pipeline.recipe.wizard.look import look
from edgeloop_pipeline.recipe.wizard.write import write
from edgeloop_pipeline.tasks.segmentation.loss import mask_loss
from edgeloop_pipeline.tasks.segmentation.measure import counted
from masked import NAMES, masked


def test_iou_and_dice_are_those_of_all_pixels() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(5, 4, 6, 8)).astype(np.float32)
    scores[:, 3] = -9  # a label that is nowhere and never answered
    masks = rng.integers(0, 3, (5, 12, 16)).astype(np.uint8)
    masks[0, :4] = NOWHERE
    pixels = counted(scores, masks)
    weights = np.array([1.0, 0, 2, 1, 1])
    answer = scores.argmax(1).repeat(2, axis=1).repeat(2, axis=2)
    rows = np.repeat(np.arange(5), weights.astype(int))
    found, truth = answer[rows], masks[rows]
    for label in range(3):
        a, b = (found == label) & (truth != NOWHERE), truth == label
        assert pixels.ious(weights)[label] == pytest.approx((a & b).sum() / (a | b).sum())
        assert pixels.dices(weights)[label] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
    assert np.isnan(pixels.ious(weights)[3])
    assert pixels.mean_iou(weights) == pytest.approx(np.mean(pixels.ious(weights)[:3]))


def test_the_loss_asks_for_the_truth_and_nothing_where_it_is_unknown() -> None:
    truth = torch.randint(0, 3, (2, 8, 8), dtype=torch.uint8)
    right = 20 * torch.nn.functional.one_hot(truth.long(), 3).movedim(-1, 1).float()
    assert float(mask_loss(right, truth, 8, 8)) < 1e-3 < 1 < float(mask_loss(-right, truth, 8, 8))
    assert float(mask_loss(right, truth.flatten(1).float(), 8, 8)) == pytest.approx(float(mask_loss(right, truth, 8, 8)))
    truth[:, :4] = NOWHERE
    scores = torch.randn(2, 3, 4, 4, requires_grad=True)
    mask_loss(scores, truth, 8, 8).backward()
    assert scores.grad is not None and not scores.grad[:, :, :2].any() and scores.grad[:, :, 2:].all()
    nothing = mask_loss(scores, torch.full((2, 8, 8), NOWHERE, dtype=torch.uint8), 8, 8)
    assert torch.isfinite(nothing)


@pytest.mark.parametrize("augment", [augment_masks, augment_upright_masks])
def test_masks_move_with_their_pictures(augment: object) -> None:
    """What is bright in the picture is labelled in the mask, before and after."""
    values, masks = np.full((16, 64, 64, 3), 20, np.uint8), np.zeros((16, 64, 64), np.uint8)
    for i in range(16):
        values[i, 8 : 30 + i, 20:52], masks[i, 8 : 30 + i, 20:52] = 230, 1
    made, moved = augment(torch.from_numpy(values), torch.from_numpy(masks), torch.Generator().manual_seed(3))  # type: ignore[operator]
    bright, labelled, known = made.float().mean(-1) > 125, moved == 1, moved != NOWHERE
    assert moved.dtype == torch.uint8 and set(moved.unique().tolist()) <= {0, 1, NOWHERE} and (moved == NOWHERE).any()
    assert float((bright == labelled)[known].float().mean()) > 0.97 and not torch.equal(moved, torch.from_numpy(masks))


@pytest.mark.parametrize(
    "steps",
    [
        [Colour(), Resize(height=24, width=12)],
        [Colour(), Letterbox(height=32, width=32)],
        [Colour(), CenterCrop(height=10, width=40)],
    ],
)
def test_a_mask_lies_where_preprocessing_puts_its_picture(steps: list) -> None:
    from edgeloop_contract.preprocessing import prepare

    mask = np.zeros((16, 24), np.uint8)
    mask[4:12, 6:18] = 1
    picture = np.repeat(mask[..., None] * 200, 3, axis=-1).astype(np.uint8)
    sample = prepare(steps, picture).values[0]
    moved = mask_in_sample(mask, placement(steps, 16, 24), *sample.shape[:2])
    assert moved.shape == sample.shape[:2]
    known = moved != NOWHERE
    assert ((sample[..., 0] > 100) == (moved == 1))[known].mean() > 0.97 and (moved == 1).any()


def test_the_data_s_own_split_counts(tmp_path: Path) -> None:
    truth = masked(tmp_path / "data", 12)
    names = sorted(truth)
    sides = ["train"] * 6 + ["validation"] * 3 + ["test"] * 3
    lines = [f"{Path(name).stem},{side}" for name, side in zip(names, sides, strict=True)]
    (tmp_path / "data" / "split.csv").write_text("\n".join(["image,split", *lines]) + "\n")
    data = PictureMasks(tmp_path / "data", NAMES)
    loaded = data.load()
    assert [len(split.labels) for split in (loaded.train, loaded.validation, loaded.test)] == [6, 3, 3]
    assert (loaded.validation.labels[1] == truth[loaded.validation.names[1]]).all()
    assert tmp_path / "data" / "split.csv" in data.files() and len(data.files()) == 25
    (tmp_path / "data" / "split.csv").write_text("\n".join(["image,split", *lines[1:]]) + "\n")
    with pytest.raises(DataError, match=f"{names[0]} is in no split"):
        PictureMasks(tmp_path / "data", NAMES).load()


def test_pictures_that_are_equal_stay_together(tmp_path: Path) -> None:
    masked(tmp_path / "data", 20)
    for part in ("images", "masks"):
        for i in range(5):
            (tmp_path / "data" / part / f"copy{i}.png").write_bytes((tmp_path / "data" / part / f"p{i:03d}.png").read_bytes())
    data = PictureMasks(tmp_path / "data", NAMES)
    side = {pair[0].name: side for pair, side in zip(data.pairs, data.sides(), strict=True)}
    assert set(side.values()) == {"train", "validation", "test"}
    assert all(side[f"copy{i}.png"] == side[f"p{i:03d}.png"] for i in range(5))


def test_white_masks_and_numbers_of_instances(tmp_path: Path) -> None:
    truth = masked(tmp_path / "data", 8)
    folder = tmp_path / "data" / "masks"
    for name, mask in truth.items():
        (folder / name).unlink()
        Image.fromarray(np.where(mask > 0, 255, 0).astype(np.uint8)).save(folder / f"{Path(name).stem}_mask.png")
    loaded = PictureMasks(tmp_path / "data", masks="white").load()
    assert (loaded.train.labels[0] == (truth[loaded.train.names[0]] > 0)).all() and loaded.labels == ("background", "object")
    with pytest.raises(DataError, match="the value 7; masks of white have 0 and 255"):
        Image.fromarray(np.full((96, 128), 7, np.uint8)).save(folder / f"{Path(loaded.train.names[0]).stem}_mask.png")
        loaded.train.labels[0]
    for name, mask in truth.items():
        Image.fromarray(mask.astype(np.uint16) * 300).save(folder / f"{Path(name).stem}_mask.png")
    loaded = PictureMasks(tmp_path / "data", masks="instances").load()
    assert (loaded.test.labels[0] == (truth[loaded.test.names[0]] > 0)).all()


@pytest.mark.parametrize("meaning", ["numbers", "white", "instances"])
def test_edgeloop_new_says_what_the_values_of_masks_mean(meaning: str, tmp_path: Path) -> None:
    truth = masked(tmp_path / "data", 12)
    for i, (name, mask) in enumerate(truth.items()):
        if meaning != "numbers":
            values = np.where(mask > 0, 255 if meaning == "white" else 60 + i, 0)
            Image.fromarray(values.astype(np.uint8)).save(tmp_path / "data" / "masks" / name)
    plan = look(tmp_path / "data")
    assert plan.task == "segmentation" and plan.arguments["masks"] == meaning and f"masks of {meaning}" in plan.says[0][1]
    assert plan.distinct == (("background", "label 1", "label 2") if meaning == "numbers" else ("background", "object"))
    write(tmp_path / "mine", plan)
    assert "task: segmentation" in (tmp_path / "mine" / "recipe.yaml").read_text()
    scope: dict = {"__file__": str(tmp_path / "mine" / "data.py")}
    exec((tmp_path / "mine" / "data.py").read_text(), scope)
    loaded = scope["data"]().load()
    wanted = truth[loaded.test.names[0]]
    assert (loaded.test.labels[0] == (wanted if meaning == "numbers" else wanted > 0)).all()


def test_edgeloop_new_refuses_what_masks_do_not_say(tmp_path: Path) -> None:
    truth = masked(tmp_path / "data", 6)
    with pytest.raises(DataError, match="has masks, which are for --task segmentation"):
        look(tmp_path / "data", "regression")
    with pytest.raises(DataError, match="has no masks"):
        look(tmp_path / "data" / "images", "segmentation")
    name = next(iter(truth))
    Image.fromarray(np.ones((48, 64), np.uint8)).save(tmp_path / "data" / "masks" / name)
    with pytest.raises(DataError, match=f"{name}: it has 48 × 64 pixels, its picture 96 × 128"):
        look(tmp_path / "data")
    for value in (0, 255):
        for name in truth:
            Image.fromarray(np.full((96, 128), value, np.uint8)).save(tmp_path / "data" / "masks" / name)
        with pytest.raises(DataError, match=f"every mask is {value} throughout"):
            look(tmp_path / "data")


def test_a_canary_of_large_masks_has_few_pictures() -> None:
    """Its golden scores are values for every label and pixel."""
    from edgeloop_pipeline.bundling.canary import canary_rows
    from edgeloop_pipeline.data.types import PreparedSplits, Samples

    def rows(side: int) -> list[int]:
        numbers = np.arange(50)
        part = Samples(np.zeros((50, side, side, 3), np.uint8), np.zeros((50, side, side), np.uint8), numbers, numbers)
        found = canary_rows(PreparedSplits(("background", "object"), part, part, part, "segmentation"), 32)
        assert (
            canary_rows(PreparedSplits(("background", "object"), part, part, part, "segmentation"), len(found)).tolist()
            == found.tolist()
        )
        return found.tolist()

    assert len(rows(32)) == 32 and len(rows(256)) == 7 and len(rows(512)) == 4
