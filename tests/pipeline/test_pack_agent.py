"""`edgeloop pack-agent`: a wheelhouse that devices can install without a network, or a sentence that says why there is none."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_bench import PYTHON, stand_in
from commands import command
from edgeloop_contract.wheelhouse import opened
from wheels import wheel

NEEDS = "Requires-Dist: dep>=2\nRequires-Dist: old>=1; python_version < '3.8'\nRequires-Dist: torch; extra == 'workstation'\n"


def folder_of(folder: Path) -> Path:
    """The agent, and the one thing that it needs: with an extra, which brings a further one."""
    wheel(folder, "edgeloop", "1.2", {**stand_in(2), "edgeloop_hub/__init__.py": ""}, NEEDS.replace("dep", "dep[more]"))
    wheel(folder, "dep", "2.1", {"dep.py": ""}, "Requires-Dist: further~=1.0; extra == 'more'\n")
    wheel(
        folder,
        "further",
        "1.5",
        {"further.py": ""},
        tag=f"cp{PYTHON.replace('.', '')}-abi3-manylinux_2_28_aarch64.manylinux_2_31_aarch64",
    )
    return folder


def packed(folder: Path, *more: str) -> tuple[int, str, str]:
    done = command("edgeloop", "pack-agent", folder, "--out", folder.parent / "a.wheelhouse", "--machine", "aarch64", *more)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_it_says_what_fits_and_equal_wheels_give_equal_bytes(tmp_path: Path) -> None:
    folder, house = folder_of(tmp_path / "w"), tmp_path / "a.wheelhouse"
    code, out, err = packed(folder)
    assert code == 0 and f"agent 1.2 for Python {PYTHON}, aarch64, glibc 2.28 or later; 3 wheels" in out
    assert "holds no runtime" in err and "use the one of their packaged agent" in err
    with opened(house, 1 << 20) as found:
        manifest = found.manifest
    assert (manifest.reads, manifest.journal, manifest.left_out) == (3, 1, ["edgeloop_hub"])
    first = house.read_bytes()
    assert packed(folder)[0] == 0 and house.read_bytes() == first


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: next(folder.glob(f"{name}-*")).unlink()


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "no agent": (_without("edgeloop"), "has no wheel of edgeloop"),
    "nothing that it needs": (_without("dep"), "dep is missing, which edgeloop 1.2 needs (dep[more]>=2)"),
    "nothing that an extra needs": (_without("further"), "further is missing, which dep 2.1 needs"),
    "too old": (
        lambda folder: (_without("dep")(folder), wheel(folder, "dep", "1.9", {"dep.py": ""})),
        "edgeloop 1.2 needs dep[more]>=2; take such a one",
    ),
    "of another machine": (
        lambda folder: wheel(folder, "more", "1", {"more.py": ""}, tag="cp311-cp311-manylinux_2_28_x86_64"),
        "is for cp311-cp311-manylinux_2_28_x86_64, and devices have",
    ),
    "of musl": (
        lambda folder: wheel(folder, "more", "1", {"more.py": ""}, tag="py3-none-musllinux_1_2_aarch64"),
        "and devices have",
    ),
    "of another Python": (
        lambda folder: wheel(folder, "more", "1", {"more.py": ""}, tag="cp39-cp39-linux_aarch64"),
        "and devices have",
    ),
    "two versions": (lambda folder: wheel(folder, "dep", "2.2", {"dep.py": ""}), "has two versions of dep, 2.1 and 2.2"),
    "no wheel": (lambda folder: (folder / "x-1-py3-none-any.whl").write_bytes(b"nothing"), "not a whole wheel"),
    "no wheel's name": (lambda folder: (folder / "x.whl").write_bytes(b"nothing"), "not a wheel's name"),
    "what devices refuse": (lambda folder: wheel(folder, "evil", "1", {"../x.py": ""}), "unsafe file name"),
    "a file twice": (lambda folder: wheel(folder, "twin", "1", {"dep.py": ""}), "dep.py is in"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wheelhouse_that_no_device_could_install_is_refused_in_one_sentence(what: str, tmp_path: Path) -> None:
    change, says = WRONG[what]
    folder = folder_of(tmp_path / "w")
    change(folder)
    code, out, err = packed(folder)
    assert (code, out) == (3, "") and says in err and err.count("\n") == 1, err
    assert not (tmp_path / "a.wheelhouse").exists()


def test_a_wheel_of_an_agent_that_cannot_be_updated_is_refused(tmp_path: Path) -> None:
    path = wheel(tmp_path / "w", "edgeloop", "1.2", {"edgeloop_agent/__init__.py": ""})
    assert zipfile.is_zipfile(path)
    assert "does not say what this agent reads" in packed(tmp_path / "w")[2]


@pytest.mark.parametrize(("more", "says"), [(("--python", "2.7"), "--python '2.7'"), (("--machine", "vax"), "--machine 'vax'")])
def test_a_platform_without_agents_is_refused(more: tuple[str, ...], says: str, tmp_path: Path) -> None:
    code, _, err = packed(folder_of(tmp_path / "w"), *more)
    assert code == 2 and says in err
