"""Freed memory stays with a stage's process, and goes back after it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edgeloop_pipeline.system import malloc

PROGRAM = """
import ctypes, resource, sys
import numpy as np
from edgeloop_pipeline.system import malloc

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

def used(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        np.ones(48 << 20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: huge pages, where the kernel has some left, are not to be counted on
if sys.argv[1] == "keep":
    malloc.keep_freed()
faults, kept = used(10), resident()
malloc.give_back()
print(faults, kept - resident())
"""


@pytest.mark.skipif(malloc._glibc() is None, reason="the C library is not glibc: nothing is set there")
def test_pages_are_asked_for_once_and_given_back() -> None:
    faults, given = {}, {}
    for way in ("keep", "as it is"):
        done = subprocess.run([sys.executable, "-c", PROGRAM, way], capture_output=True, text=True, check=True)
        faults[way], given[way] = map(int, done.stdout.split())
    assert faults["keep"] < 0.2 * faults["as it is"]
    assert given["keep"] > 40 << 20
