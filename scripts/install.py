"""Make the virtual environment: the versions that were tested together, and the CPU build of torch where there is no GPU.

pip's own configuration (`pip config`, PIP_EXTRA_INDEX_URL) says where packages come from. An index of CPU builds beside the usual
one is enough, because the local version `+cpu` sorts above the plain version.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
CUDA_WITHOUT_GPU = (
    "This torch was built for CUDA, and this machine has no GPU. It works, and takes gigabytes more than the CPU build.\n"
    "For the CPU build, set PIP_EXTRA_INDEX_URL to PyTorch's index of CPU builds, delete the environment, and install again."
)
REPORT = """
import sys, torch
print('torch', torch.__version__, 'CUDA' if torch.version.cuda else 'CPU build')
if torch.version.cuda and not torch.cuda.is_available():
    print(sys.argv[1])
"""


def main(folder: Path, extra: str) -> None:
    """Install edgeloop with that extra, editable, into the virtual environment in that folder."""
    if sys.version_info < (3, 11):
        sys.exit("edgeloop's workstation needs Python 3.11 or newer (onnxruntime ships no older wheels): make PYTHON=python3.11")
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    # torch first and by itself, at its exact version: a range would bring the newest build with gigabytes of CUDA.
    torch = next(line for line in CONSTRAINTS.read_text().splitlines() if line.startswith("torch=="))
    if shutil.which("nvidia-smi") or not succeeds([*pip, f"{torch}+cpu"]):
        run([*pip, torch])
    run([*pip, "-c", str(CONSTRAINTS), "-e", f"{ROOT}[{extra}]"])
    run([str(python), "-c", REPORT, CUDA_WITHOUT_GPU])


def succeeds(command: list[str]) -> bool:
    return not subprocess.run(command, capture_output=True, check=False).returncode


def run(command: list[str]) -> None:
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"installation failed at: {' '.join(command)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
