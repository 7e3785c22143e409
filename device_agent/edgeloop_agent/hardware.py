"""This machine in one line: part of the key of everything that was measured here."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

__all__ = ["cores", "int8_may_saturate", "machine"]


@cache
def machine() -> str:
    """Board or CPU model, architecture and usable cores, such as 'Raspberry Pi 5 Model B Rev 1.0, aarch64, 4 cores'."""
    return f"{_board() or _cpu() or 'unknown CPU'}, {os.uname().machine}, {cores()} cores"


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def int8_may_saturate() -> bool:
    """Whether ONNX Runtime's fast int8 kernels may be wrong here: x86 without VNNI adds pairs of products in 16 bits (pmaddubsw).

    See "When and why do I need to try U8U8" in its page on quantization.
    """
    return os.uname().machine in ("x86_64", "i686") and not {"avx512_vnni", "avx_vnni"} & set(_fields().get("flags", "").split())


def _board() -> str:
    try:
        return Path("/proc/device-tree/model").read_text(errors="replace").strip("\0 \n")
    except OSError:
        return ""


def _cpu() -> str:
    names = _fields()
    name = names.get("model name") or names.get("Hardware") or ""
    # Clouds hide the model's number; the stepping and the widest vector unit still tell two machines apart.
    flags = names.get("flags", "").split()
    widest = next((f for f in ("amx_int8", "avx512_vnni", "avx_vnni", "avx2", "sse4_2") if f in flags), "")
    return " ".join(part for part in (name, widest) if part)


def _fields() -> dict[str, str]:
    """Of /proc/cpuinfo, the last core's."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, value in fields.items()}
