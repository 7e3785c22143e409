"""One agent for a state folder: two would try each other's updates, and count each other's starts.

The standard library alone, because the launcher needs it too.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from edgeloop_contract.errors import UsageError

__all__ = ["hold"]

NAME = "agent.lock"


def hold(folder: Path) -> None:
    """Keep the folder for this process, until it ends. Raises UsageError where another agent has it.

    A record lock belongs to a process: what takes its place by exec has it still, its children do not, and it ends with it. On a
    disk that takes no file nothing is kept that a second agent could spoil, and nothing is locked.
    """
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if _is_held(path):
            return
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        process = os.read(file, 20).decode(errors="replace").strip()
        os.close(file)
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            return  # a file system without locks
        who = f"another agent (process {process})" if process.isdecimal() else "another agent"
        raise UsageError(f"{folder}: {who} runs with this state folder; stop it, or name another folder in state") from None
    os.set_inheritable(file, True)
    try:
        os.truncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())  # for the sentence above alone
    except OSError:
        return


def _is_held(path: Path) -> bool:
    """Whether this process has it already. To open and close the file again would end the lock."""
    try:
        wanted = path.stat()
    except FileNotFoundError:
        return False
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            if os.path.samestat(os.fstat(int(descriptor.name)), wanted):
                return True
        except OSError:
            continue
    return False
