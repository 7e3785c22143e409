"""The base of stages: each declares its artefacts and the parts of its cache key."""

from __future__ import annotations

from typing import ClassVar

# The modules that open model files: a table imports them by name.
RUNTIMES = ("edgeloop_agent.runtimes.onnx", "edgeloop_agent.runtimes.tflite")


class Base:
    """The base class of a stage, with default declarations. A stage is a frozen dataclass with one call `(inputs, out) -> metrics`.

    Its fields are its settings. Files go into `out`; the result must be JSON. `failures` in it are missed floors; the run then ends
    with exit code 1, after its report. Each setting is in the stage's key, except those with `metadata={"neutral": True}`.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()
    code: ClassVar[tuple[str, ...]] = ()  # modules that decide its result, but that its own file does not import
    libraries: ClassVar[tuple[str, ...]] = ()  # packages whose version changes the output
    uses_target: ClassVar[bool] = False
    uses_machine: ClassVar[bool] = False  # the output is a measurement of this machine
    collective: ClassVar[bool] = False  # it trains: if there are several processes, each calls it
    uses_history: ClassVar[bool] = False  # it reads every stage before it, not only those that it needs
