"""What both formats have in common when a file is wrong: limits, and one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from edgeloop_contract.errors import ModelError
from edgeloop_exporters.model_files.description import Tensor
from edgeloop_exporters.model_files.text import clean

__all__ = ["MAX_INPUTS", "MAX_NAME", "MAX_TENSORS", "name_of", "not_empty"]

MAX_NAME = 500  # characters of a tensor's name
MAX_INPUTS = 1000
MAX_TENSORS = 100_000  # and operators, of one graph; the largest language models have ten thousand


def name_of(name: str, where: str, exact: bool = True) -> str:
    """A tensor's name, by which the runtime is asked: unchanged, or refused where it is not plain text."""
    shown = clean(name, MAX_NAME)
    if exact and (len(name) > MAX_NAME or not name.isprintable()):
        raise ModelError(
            f"{where}: the name {shown[:60]!r} is longer than {MAX_NAME} characters or holds control characters: rename it"
        )
    return name if exact else shown


def not_empty(inputs: Sequence[Tensor], outputs: Sequence[Tensor], where: str) -> None:
    if not inputs or not outputs:
        raise ModelError(f"{where} has no {'outputs' if inputs else 'inputs'}: there is nothing to run; export it again")
    if max(len(inputs), len(outputs)) > MAX_INPUTS:
        raise ModelError(f"{where} has more than {MAX_INPUTS} inputs or outputs; edgeloop reads no more")
