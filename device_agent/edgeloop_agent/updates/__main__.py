"""The updater, `python -m edgeloop_agent.updates CONFIG`: a CycleRequest on standard input, a CycleResult on standard output."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import msgspec

from edgeloop_agent.config import load, load_running
from edgeloop_agent.updates.canary import canary_failure
from edgeloop_agent.updates.config_slots import check as check_config
from edgeloop_agent.updates.cycle import UpdateCycle, outcome
from edgeloop_agent.updates.cycle_messages import CycleRequest
from edgeloop_agent.updates.journal import UpdateFolder, update_folder
from edgeloop_contract.messages import Job, JobResult

STATE_NAME = "job-state"
NICENESS = 15  # of this process once it installs an agent; it measures nothing more then
SUSTAINED_PART = 12  # of a job's time: for the sustained rate


def measure(folder: UpdateFolder, request: CycleRequest, bundle: Path, job: Job) -> JobResult:
    """The bundle on this device, where it is not too hot, within the job's time."""
    if request.celsius is not None and request.celsius > job.max_celsius:
        return JobResult(id=job.id, refused=f"{request.celsius:.0f} °C; the job allows {job.max_celsius:.0f} °C")
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


def yield_to_answers() -> None:
    """From here on answers come first."""
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        os.nice(NICENESS)


def main(config_path: Path) -> None:
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=CycleRequest)
    config = load_running(config_path)
    folder = UpdateFolder(update_folder(config))
    canary = partial(canary_failure, config_path, config.limits.start_seconds)
    measuring = partial(measure, folder, request) if request.idle else None
    own = load(config_path)
    check = partial(check_config, config_path, own, config.limits.start_seconds)
    cycle = UpdateCycle(config, folder, request.running, canary, measuring, others=request.others, check_config=check)
    cycle.config_path, cycle.lower_priority = config_path.resolve(), yield_to_answers
    cycle.log, cycle.recent, cycle.jobs = request.log, request.recent, own.jobs
    sys.stdout.buffer.write(msgspec.json.encode(outcome(cycle, request)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
