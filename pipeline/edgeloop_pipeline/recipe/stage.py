"""What a stage says of itself."""

from __future__ import annotations

from typing import ClassVar


class Base:
    """Defaults for a stage's class-level facts."""

    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()
    libraries: ClassVar[tuple[str, ...]] = ()  # distributions whose version changes the output
    uses_target: ClassVar[bool] = False
    uses_machine: ClassVar[bool] = False  # the output is a measurement of this machine
    collective: ClassVar[bool] = False  # trains: where several processes were started, each calls it
    uses_history: ClassVar[bool] = False  # reads every stage before it, not only what it needs
