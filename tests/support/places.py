"""Places where a device may have to run: read-only roots, small and worn cards, clocks without a battery, networks of IPv6 alone.

Some are words to put before a command, and need root with mount namespaces: `@in_namespaces` skips a test where there are none,
and says why. Others are an environment for a command (`worn_card`, `wrong_clock`), by a library that stands before the system's.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
MOUNTS = ("unshare", "--mount", "--propagation", "private", "sh", "-c")
# Everything but $1 becomes read-only: /tmp, /dev/shm and the folder that the command runs in too.
READ_ONLY = """
set -e; mount --bind "$1" "$1"
awk '{print $5}' /proc/self/mountinfo | while read -r place; do
  case "$(printf %b "$place")" in "$1"|/proc|/proc/*|/sys|/sys/*) ;; *) mount -o remount,bind,ro "$(printf %b "$place")" 2>/dev/null || : ;; esac
done
shift; exec "$@"
"""
CARD = 'set -e; mount -t tmpfs -o "size=$2" card "$1"; shift 2; exec "$@"'
NO_ZONE = 'set -e; test ! -e /etc/localtime || mount --bind /dev/null /etc/localtime; exec "$@"'
BARE = ("env", "-i", "PATH=/usr/bin:/bin")
SOURCE = Path(__file__).with_name("faulty_board.c")


@functools.cache
def missing() -> str:
    """Why mount and network namespaces cannot be used here; "" where they can."""
    if os.geteuid():
        return "not root"
    if not shutil.which("unshare"):
        return "there is no program unshare (util-linux)"
    tried = [*MOUNTS, "mount -t tmpfs none /mnt && unshare --net true"]
    done = subprocess.run(tried, capture_output=True, text=True, check=False)
    return "" if not done.returncode else done.stderr.strip()[:100] or f"exit code {done.returncode}"


in_namespaces = pytest.mark.skipif(bool(missing()), reason=f"needs root, with mount and network namespaces: {missing()}")


def read_only(but: Path) -> list[str]:
    """Nothing can be written but this folder."""
    return [*MOUNTS, READ_ONLY, "sh", str(but.resolve())]


def card(folder: Path, size: str) -> list[str]:
    """A card of this size at `folder`."""
    return [*MOUNTS, CARD, "sh", str(folder.resolve()), size]


def no_zone() -> list[str]:
    """A machine that knows no time zone."""
    return [*MOUNTS, NO_ZONE, "sh", "env", "-u", "TZ"]


def seen_by(pid: int, path: Path) -> Path:
    """A path as that process sees it."""
    return Path(f"/proc/{pid}/root{path.resolve()}")


def fill(folder: Path) -> Path:
    """A file that leaves no room beside it."""
    path = folder / "fill"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return path


@functools.cache
def _library() -> str:
    made = Path(tempfile.mkdtemp(prefix="faulty-board-")) / "faulty_board.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", made, SOURCE, "-ldl"], check=True)
    return str(made)


def worn_card(folder: Path, how: Path) -> dict[str, str]:
    """An environment: what writes below `folder` fails, or syncs slowly, while the file `how` says rofs, io or slow."""
    return {"LD_PRELOAD": _library(), "WORN_CARD": str(folder.resolve()), "WORN_CARD_HOW": str(how)}


def wrong_clock(behind: Path) -> dict[str, str]:
    """An environment: the time of day is as many seconds behind as the file says."""
    return {"LD_PRELOAD": _library(), "CLOCK_BEHIND": str(behind)}


class IPv6Only:
    """A network of its own without any IPv4 address, not even 127.0.0.1: ::1, and fd00::1 as another machine would ask."""

    SET_UP = "ip link set lo up; ip addr del 127.0.0.1/8 dev lo; ip addr add fd00::1/128 dev lo nodad; echo; exec cat"

    def __enter__(self) -> IPv6Only:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-e", "-c", self.SET_UP], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._holder.stdout is not None and self._holder.stdout.readline() == b"\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.communicate()

    @property
    def inside(self) -> list[str]:
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net"]

    def call(self, function: Callable[[], T]) -> T:
        """What it returns in a thread that is in this network."""

        def moved() -> T:
            with Path(f"/proc/{self._holder.pid}/ns/net").open() as network:
                assert ctypes.CDLL(None).setns(network.fileno(), CLONE_NEWNET) == 0
            return function()

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(moved).result()
