"""Where the agent keeps its state, where its config names no folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from edgeloop_contract.errors import UsageError

__all__ = ["check_rights", "default_folder"]


def default_folder() -> Path:
    """$EDGELOOP_STATE, else $XDG_STATE_HOME/edgeloop-agent, else ~/.local/state/edgeloop-agent; for a user without a home a
    folder of its own in the temporary one. Not created here. Raises UsageError where that is somebody else's.
    """
    if named := os.environ.get("EDGELOOP_STATE"):
        return Path(named)
    if named := os.environ.get("XDG_STATE_HOME"):
        return Path(named) / "edgeloop-agent"
    try:
        return Path.home() / ".local" / "state" / "edgeloop-agent"
    except RuntimeError:  # neither $HOME nor an entry in passwd: a container with a user of its own
        import tempfile

        return _temporary_home(Path(tempfile.gettempdir()) / f"edgeloop-agent-{os.getuid()}")


def _temporary_home(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        state = folder.lstat()
    except OSError as error:
        raise UsageError(
            f"no home, and {folder} cannot be made ({error.strerror}); set state in the config, or $EDGELOOP_STATE"
        ) from error
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise UsageError(f"no home, and {folder} is not this user's alone; set state in the config, or $EDGELOOP_STATE")
    return folder


def check_rights(folder: Path) -> None:
    """Raises UsageError for a state folder that is there, and that this user may not use: its updates would not be seen.

    A read-only disk is no matter of rights: the agent goes on without what it cannot keep.
    """
    try:
        there, is_fixed = folder.is_dir(), bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except FileNotFoundError:
        return
    except OSError:
        there, is_fixed = True, False
    if there and not is_fixed and not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        remedy = f"give it to that user (chown -R {os.getuid()}), or name another folder in state"
        raise UsageError(f"{folder}: user {os.getuid()} may not read and write it; {remedy}")
