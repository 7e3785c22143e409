"""Whether this agent can serve on this device: `python -m edgeloop_agent.updates.self_check CONFIG`, before it is switched to.

The agent that runs starts it, in the new agent's environment. It reads the config, checks each bundle that is served with its own
golden samples, and reads the journals. It prints one JSON object. Latency is not judged here, and what
is measured is not kept: this runs beside the inference, at a low priority.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import msgspec


class SelfCheck(msgspec.Struct, frozen=True):
    """`problem`: why it cannot serve, in one sentence; "" where it can."""

    version: str
    problem: str


def problem_here(path: Path) -> str:
    from edgeloop_agent.config import load_running
    from edgeloop_agent.updates.canary import check
    from edgeloop_agent.updates.journal import Journal, UpdateFolder, update_folder
    from edgeloop_agent.updates.slots import files_now
    from edgeloop_contract.errors import EdgeloopError

    try:
        config = load_running(path)
        for folder in UpdateFolder(update_folder(config)).all():
            journal = folder.path / "journal.json"
            if journal.exists():
                msgspec.json.decode(journal.read_bytes(), type=Journal)
        state = update_folder(config) / "self-check"
        shutil.rmtree(state, ignore_errors=True)
        try:
            for file in files_now(config):
                check(path, file, state)
        finally:
            shutil.rmtree(state, ignore_errors=True)
    except EdgeloopError as error:
        return str(error)
    except msgspec.MsgspecError as error:
        return f"{journal}: this agent does not read it ({error})"
    return ""


def main(path: Path) -> None:
    from importlib.metadata import version

    found = SelfCheck(version("edgeloop"), problem_here(path))
    sys.stdout.buffer.write(msgspec.json.encode(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
