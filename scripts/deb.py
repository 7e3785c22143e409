"""Make a Debian package of the agent: python scripts/deb.py amd64|arm64 FOLDER [--wheels FOLDER]

Debian's own tools pack it. It holds the agent and its dependencies as wheels of constraints.txt, for the Python of Debian 12 and
Raspberry Pi OS 12; a package for arm64 is made on any machine. Equal inputs give equal bytes: every time is $SOURCE_DATE_EPOCH, or
that of the last commit. `--wheels`: wheels that an earlier run kept, without a network.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parent.parent
PYTHON = "3.11"
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
GLIBC = range(17, 37)  # manylinux tags up to Debian 12's
EXTRAS = ("tflite", "images", "mqtt")
KEPT = ("edgeloop_agent", "edgeloop_contract")  # of our own packages; the others are the workstation's and the hub's
LIBRARY = "usr/lib/edgeloop-agent"
LAUNCHER = f"""\
#!/bin/sh
# What the agent starts finds the same libraries; nothing is imported from the folder that it is called in.
export PYTHONPATH=/{LIBRARY} PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1
exec /usr/bin/python{PYTHON} -m edgeloop_agent.cli "$@"
"""
POSTINST = """\
#!/bin/sh
set -e
if [ "$1" = configure ] && [ -z "$DPKG_ROOT" ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl try-restart edgeloop-agent.service || true
fi
"""
PRERM = """\
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -z "$DPKG_ROOT" ] && [ -d /run/systemd/system ]; then
    systemctl disable --now edgeloop-agent.service || true
fi
"""
CONTROL = """\
Package: edgeloop-agent
Version: {version}
Architecture: {architecture}
Maintainer: edgeloop <edgeloop@localhost>
Installed-Size: {kib}
Depends: python3 (>= {python}), python{python}
Section: science
Priority: optional
Description: runs models on this device, and keeps them up to date
 The agent answers sources such as cameras, microphones and folders with verified bundles,
 takes signed updates from a hub, and serves a local API. Its service is made by
 edgeloop-agent install CONFIG.
"""


def main(architecture: str, out: Path, wheels: Path | None) -> Path:
    """Returns the package."""
    os.environ.setdefault("SOURCE_DATE_EPOCH", _last_commit())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        kept = wheels or work / "wheels"
        if wheels is None:
            _download(architecture, kept)
        tree = work / "tree"
        _installed(kept, tree / LIBRARY, architecture)
        _write(tree / "usr/bin/edgeloop-agent", LAUNCHER, 0o755)
        documents = tree / "usr/share/doc/edgeloop-agent"
        _write(documents / "copyright", (ROOT / "LICENSE").read_text())
        _write(documents / "wheels.txt", "".join(f"{_sha256(w)}  {w.name}\n" for w in sorted(kept.glob("*.whl"))))
        _write(documents / "examples/agent.toml", (ROOT / "device_agent/agent.example.toml").read_text())
        _write(tree / "usr/lib/sysusers.d/edgeloop-agent.conf", 'u edgeloop-agent - "edgeloop agent"\n')
        kib = sum(p.stat().st_size for p in tree.rglob("*") if p.is_file()) // 1024
        text = CONTROL.format(version=version, architecture=architecture, kib=kib, python=PYTHON)
        _write(tree / "DEBIAN/control", text)
        _write(tree / "DEBIAN/postinst", POSTINST, 0o755)
        _write(tree / "DEBIAN/prerm", PRERM, 0o755)
        _evened(tree)
        out.mkdir(parents=True, exist_ok=True)
        package = out / f"edgeloop-agent_{version}_{architecture}.deb"
        words = ["dpkg-deb", "--root-owner-group", "-Zxz", "--threads-max=1", "--build", str(tree), str(package)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return package


def _last_commit() -> str:
    done = subprocess.run(["git", "-C", str(ROOT), "log", "-1", "--format=%ct"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "1577836800"


def _download(architecture: str, folder: Path) -> None:
    """Wheels of the agent and of all that it needs, for that machine."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(folder), str(ROOT)], check=True)
    mine = next(folder.glob("edgeloop-*.whl"))
    platforms = [f"--platform=manylinux_2_{minor}_{MACHINES[architecture]}" for minor in GLIBC]
    words = [*pip, "download", "--only-binary=:all:", *platforms, f"--python-version={PYTHON}", "-c", str(ROOT / "constraints.txt")]
    subprocess.run([*words, "-d", str(folder), f"edgeloop[{','.join(EXTRAS)}] @ {mine.as_uri()}"], check=True)


def _installed(wheels: Path, library: Path, architecture: str) -> None:
    """What the wheels hold, without the parts of ours that no device needs, and without what only pip wants to know."""
    platforms = [f"--platform=manylinux_2_{minor}_{MACHINES[architecture]}" for minor in GLIBC]
    words = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "install", "--no-index", "--no-deps", "--no-compile"]
    words += ["--only-binary=:all:", *platforms, f"--python-version={PYTHON}", "--target", str(library)]
    subprocess.run([*words, *map(str, sorted(wheels.glob("*.whl")))], check=True)
    ours = [p.name for p in library.iterdir() if p.name.startswith("edgeloop") and p.is_dir() and "." not in p.name]
    for name in (*(n for n in ours if n not in KEPT), "bin"):
        shutil.rmtree(library / name, ignore_errors=True)
    for file in [
        p
        for pattern in ("*.dist-info/RECORD", "*.dist-info/direct_url.json", "*.dist-info/REQUESTED")
        for p in library.glob(pattern)
    ]:
        file.unlink()


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _evened(tree: Path) -> None:
    """Modes and times that do not depend on who made it, and when."""
    moment = int(os.environ["SOURCE_DATE_EPOCH"])
    for path in [*tree.rglob("*"), tree]:
        if not path.is_symlink():
            runs = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if runs else 0o644)
        os.utime(path, (moment, moment), follow_symlinks=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("architecture", choices=sorted(MACHINES))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--wheels", type=Path)
    options = parser.parse_args()
    print(main(options.architecture, options.folder, options.wheels))
