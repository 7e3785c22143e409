"""Make the virtual environment: the versions that were tested together, and the CPU build of torch where there is no GPU."""

from __future__ import annotations

import shutil
import subprocess
import sys
import urllib.request
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def main(folder: Path) -> None:
    if sys.version_info < (3, 11):
        sys.exit("edgeloop's workstation needs Python 3.11 or newer (onnxruntime ships no older wheels): make PYTHON=python3.11")
    if not (folder / "bin" / "python").exists():
        venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    # torch first and by itself, at its exact version: a range would bring the newest build with gigabytes of CUDA.
    torch = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    run([*pip, torch.split("+")[0], *cpu_index()])
    run([*pip, "-c", str(ROOT / "constraints.txt"), "-e", f"{ROOT}[workstation,dev]"])
    report = "import torch; print('torch', torch.__version__, 'CUDA' if torch.version.cuda else 'CPU build')"
    run([str(folder / "bin" / "python"), "-c", report])


def cpu_index() -> list[str]:
    """PyTorch's own index of CPU builds, where it can be reached and no GPU is there; else nothing."""
    if shutil.which("nvidia-smi"):
        return []
    try:
        urllib.request.urlopen(f"{CPU_INDEX}/torch/", timeout=5).close()
    except OSError:
        return []
    return ["--index-url", CPU_INDEX, "--extra-index-url", "https://pypi.org/simple"]


def run(command: list[str]) -> None:
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"installation failed at: {' '.join(command)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
