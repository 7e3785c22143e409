"""A wheelhouse on this machine: python benchmarks/agent_update.py FILE [CONFIG]. Bytes, and seconds to install it and to check it.

FILE is of `edgeloop pack-agent`; CONFIG of a device: then the new agent checks itself with it.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from edgeloop_agent.launcher import environment_of
from edgeloop_agent.updates.environments import UNPACKED, install, placed, unpacked_in
from edgeloop_contract.wheelhouse import opened

ROUNDS = 3


def main(file: Path, config: Path | None) -> None:
    with tempfile.TemporaryDirectory(dir=file.parent) as name, opened(file, 1 << 30) as house:
        path = placed(Path(name), "a")
        taken = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            install(house, path, "", 0.0)
            taken.append(time.perf_counter() - began)
        files = [p.stat().st_size for p in path.rglob("*") if p.is_file()]
        print(f"{file.stat().st_size:,} bytes; installed: {len(files):,} files, {sum(files):,} bytes")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(f"installed in {min(taken):.1f} to {max(taken):.1f} s, with {peak} MiB at most")
        mine = next(wheel for wheel in house.manifest.wheels if wheel.project == "edgeloop")
        print(f"where edgeloop alone changed: {len(house.manifest_bytes) + mine.bytes:,} bytes of them come")
        taken = []
        for _ in range(ROUNDS):
            _change(path, mine.sha256)
            began = time.perf_counter()
            install(house, placed(Path(name), "b"), "", 0.0, path)
            taken.append(time.perf_counter() - began)
        print(f"then installed beside in {min(taken):.1f} to {max(taken):.1f} s")
        for _ in range(ROUNDS if config else 0):
            began = time.perf_counter()
            words = [sys.executable, "-m", "edgeloop_agent.updates.self_check", str(config)]
            done = subprocess.run(words, env=environment_of(path), capture_output=True, text=True, check=True)
            print(f"checked itself in {time.perf_counter() - began:.1f} s: {done.stdout}")


def _change(path: Path, sha256: str) -> None:
    """As if this wheel were another one in the agent that runs."""
    found = unpacked_in(path)
    others = {wheel: files for wheel, files in found.wheels.items() if wheel != sha256}
    (path / UNPACKED).write_bytes(msgspec.json.encode(msgspec.structs.replace(found, wheels=others)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
