"""The updater's process: `python -m edgeloop_agent.updates CONFIG`, with a Told as JSON on standard input; prints an Ended."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import msgspec

from edgeloop_agent.config import load
from edgeloop_agent.updates.canary import Passed, try_out
from edgeloop_agent.updates.cycle import Turn, outcome
from edgeloop_agent.updates.journal import Folder
from edgeloop_agent.updates.switcher import Ended, Told, folder_of
from edgeloop_contract.messages import Job, JobResult

STATE_NAME = "job-state"
SUSTAINED_PART = 12  # of a job's time: for the sustained rate


def passes(config: Path, timeout_seconds: float, bundle: Path) -> str | None:
    """None, or why the canary did not pass."""
    found = try_out(config, bundle, timeout_seconds)
    return None if isinstance(found, Passed) else found


def measure(folder: Folder, told: Told, bundle: Path, job: Job) -> JobResult:
    """The bundle on this device, where it is not too hot, within the job's time."""
    if told.celsius is not None and told.celsius > job.max_celsius:
        return JobResult(id=job.id, refused=f"{told.celsius:.0f} °C; the job allows {job.max_celsius:.0f} °C")
    words = [sys.executable, "-m", "edgeloop_agent.cli", "bench", str(bundle), "--json", "--state", str(folder.path / STATE_NAME)]
    words += ["--kernels", "--sustain", str(job.max_seconds / SUSTAINED_PART), "--stop-celsius", str(job.max_celsius)]
    try:
        done = subprocess.run(words, capture_output=True, timeout=job.max_seconds, check=False, stdin=subprocess.DEVNULL)
        if done.returncode == 0:
            return JobResult(id=job.id, measured=msgspec.json.decode(done.stdout, type=dict))
        return JobResult(id=job.id, refused=done.stderr.decode(errors="replace")[-500:] or f"exit code {done.returncode}")
    except subprocess.TimeoutExpired:
        return JobResult(id=job.id, refused=f"not done within {job.max_seconds:g} s")
    except msgspec.MsgspecError as error:
        return JobResult(id=job.id, refused=f"bench answered with no JSON ({error})")


def main(config_path: Path) -> None:
    told = msgspec.json.decode(sys.stdin.buffer.read(), type=Told)
    config, folder = load(config_path), Folder(folder_of(load(config_path)))
    tries = partial(passes, config_path, config.limits.start_seconds)
    turn = Turn(config, folder, told.running, tries, partial(measure, folder, told) if told.idle else None)
    level, said = outcome(turn, told.heartbeat, told.drift)
    sys.stdout.buffer.write(msgspec.json.encode(Ended(level, said)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
