"""What a stage declares: its artefacts, and what belongs in its cache key."""

from __future__ import annotations

from typing import ClassVar

# What opens model files: a table imports them by name.
RUNTIMES = ("edgeloop_agent.runtimes.onnx", "edgeloop_agent.runtimes.tflite")


class Base:
    """Defaults of what a stage declares. A stage is a frozen dataclass of settings with one call: `(inputs, out) -> metrics`.

    Files go into `out`; what it returns must be JSON. `failures` in it: floors that were missed; the run then ends with exit
    code 1, after its report. Each setting is in the stage's key, but those with `metadata={"neutral": True}`.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()
    code: ClassVar[tuple[str, ...]] = ()  # modules that decide its result and that its own file does not import
    libraries: ClassVar[tuple[str, ...]] = ()  # distributions whose version changes the output
    uses_target: ClassVar[bool] = False
    uses_machine: ClassVar[bool] = False  # the output is a measurement of this machine
    collective: ClassVar[bool] = False  # trains: where several processes were started, each calls it
    uses_history: ClassVar[bool] = False  # reads every stage before it, not only what it needs
