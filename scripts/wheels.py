"""Does every dependency of a device have a wheel for aarch64, for each Python that devices have? Nothing is installed.

python scripts/wheels.py            exits with 1 and names what is missing
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import tomllib

PYTHONS = ("3.10", "3.11", "3.12", "3.13")  # JetPack 6; Raspberry Pi OS 12; Ubuntu 24.04; Raspberry Pi OS 13
EXTRAS = ("onnx", "tflite", "images", "camera", "mqtt", "sound")
GLIBC = range(17, 37)  # manylinux tags up to Debian 12's


def main() -> int:
    project = tomllib.loads((Path(__file__).resolve().parent.parent / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for extra in EXTRAS for line in optional[extra])]
    missing = []
    for python in PYTHONS:
        for requirement in wanted:
            if not applies(requirement, python):
                continue
            found = wheel(requirement.partition(";")[0].strip(), python)
            print(f"{python:6}{requirement.partition(';')[0].strip():32}{found or 'MISSING'}", flush=True)
            if not found:
                missing.append(f"{requirement} for Python {python}")
    if missing:
        print(f"no wheel for aarch64: {'; '.join(missing)}", file=sys.stderr)
    return int(bool(missing))


def applies(requirement: str, python: str) -> bool:
    """Only `python_version < 'X'` occurs in our own markers."""
    marker = requirement.partition(";")[2]
    if "python_version <" not in marker:
        return True
    limit = marker.split("'")[1]
    return tuple(map(int, python.split("."))) < tuple(map(int, limit.split(".")))


def wheel(requirement: str, python: str) -> str:
    """The file that pip would take, or ''."""
    platforms = [word for minor in GLIBC for word in ("--platform", f"manylinux_2_{minor}_aarch64")]
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", folder, *platforms]
        words += ["--platform", "manylinux2014_aarch64", "--python-version", python, "--implementation", "cp"]
        words += ["--abi", f"cp{python.replace('.', '')}", "--abi", "abi3", "--abi", "none", requirement]
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
        files = [p.name for p in Path(folder).glob("*.whl")]
        return files[0] if not done.returncode and files else ""


if __name__ == "__main__":
    sys.exit(main())
