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

from edgeloop_agent.launcher import environment_of
from edgeloop_agent.updates.environments import install, placed
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
        for _ in range(ROUNDS if config else 0):
            began = time.perf_counter()
            words = [sys.executable, "-m", "edgeloop_agent.updates.self_check", str(config)]
            done = subprocess.run(words, env=environment_of(path), capture_output=True, text=True, check=True)
            print(f"checked itself in {time.perf_counter() - began:.1f} s: {done.stdout}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
