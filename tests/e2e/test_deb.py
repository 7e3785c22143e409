"""The Debian package: made twice it has equal bytes, dpkg takes it, and what it holds runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from commands import HERE
from programs import needs
from serving import GOLDEN, RECORDING

ROOT = HERE.parent


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ours alone: the others take a minute to come, and are what their makers put there."""
    folder = tmp_path_factory.mktemp("wheels")
    subprocess.run([sys.executable, "-m", "build", "-q", "--wheel", "-o", folder, ROOT], check=True, capture_output=True)
    return folder


def made(architecture: str, folder: Path, wheels: Path) -> Path:
    words = [sys.executable, ROOT / "scripts" / "deb.py", architecture, folder, "--wheels", wheels]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
    return Path(done.stdout.strip())


@pytest.mark.long
@needs("dpkg")
@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_a_package_is_the_same_every_time_and_what_it_holds_runs(architecture: str, wheels: Path, tmp_path: Path) -> None:
    one, two = (made(architecture, tmp_path / name, wheels) for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    fields = subprocess.run(["dpkg-deb", "--field", one], capture_output=True, text=True, check=True).stdout
    assert f"Architecture: {architecture}\n" in fields and "Depends: python3" in fields
    tree = tmp_path / "tree"
    subprocess.run(["dpkg-deb", "-x", one, tree], check=True)
    library = tree / "usr/lib/edgeloop-agent"
    assert {p.name for p in library.iterdir() if "." not in p.name} == {"edgeloop_agent", "edgeloop_contract"}
    launcher = (tree / "usr/bin/edgeloop-agent").read_text()
    assert "PYTHONSAFEPATH=1" in launcher and os.access(tree / "usr/bin/edgeloop-agent", os.X_OK)
    # The other libraries are this environment's; ours are the package's, in which no other package of this project is.
    probe = "import edgeloop_agent, sys; print(edgeloop_agent.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(library), "PYTHONSAFEPATH": "1"}
    where = subprocess.run([sys.executable, "-c", probe], env=environment, capture_output=True, text=True, check=True).stdout
    assert where.startswith(str(library))
    words = [sys.executable, "-m", "edgeloop_agent.cli", "run", GOLDEN, "--source", RECORDING, "--state", tmp_path / "state"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert "48 samples answered, 0 refused" in done.stderr


@pytest.mark.long
@needs("dpkg")
@pytest.mark.skipif(os.geteuid() != 0, reason="dpkg installs as root alone")
def test_dpkg_installs_it_and_takes_it_away(wheels: Path, tmp_path: Path) -> None:
    package, root = made("amd64", tmp_path / "made", wheels), tmp_path / "root"
    (root / "var/lib/dpkg/info").mkdir(parents=True)
    (root / "var/lib/dpkg/updates").mkdir()
    (root / "var/lib/dpkg/status").touch()
    dpkg = ["dpkg", f"--root={root}", "--force-depends", "--force-script-chrootless"]
    subprocess.run([*dpkg, "-i", package], check=True, capture_output=True)
    assert (root / "usr/bin/edgeloop-agent").exists() and (root / "usr/share/doc/edgeloop-agent/wheels.txt").read_text().count(
        "\n"
    ) == 1
    subprocess.run([*dpkg, "-r", "edgeloop-agent"], check=True, capture_output=True)
    assert not (root / "usr/lib/edgeloop-agent").exists()
