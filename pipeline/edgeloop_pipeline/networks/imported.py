"""A network that comes from a model file: the recipe's `imported`, as torch layers that take our normalized samples."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edgeloop_contract.errors import ModelError, UsageError
from edgeloop_exporters.inputs import part
from edgeloop_exporters.named_inputs import NamedInput
from edgeloop_exporters.outputs import join
from edgeloop_pipeline.cache.digests import sha256
from edgeloop_pipeline.recipe.settings import Imported

__all__ = ["ImportedNetwork", "imported_network", "open_import"]


class ImportedNetwork(nn.Module):
    """Takes (N, channels, …) as every network of a recipe does; gives the chosen output, (N, …), or several joined, (N, total).

    `layout`: how the file wants that sample; `sample`: its shape there, without the batch. `chosen`: output → its place among the
    file's. `flat`: scores are (N, outputs).
    """

    def __init__(self, body: nn.Module, layout: str, sample: tuple[int, ...], chosen: dict[str, int], flat: bool) -> None:
        super().__init__()
        self.body, self.layout, self.sample, self.chosen, self.flat = body, layout, sample, chosen, flat

    def forward(self, x: Tensor) -> Tensor:
        return self.chosen_of(self.body(*self.fed(x)))

    def fed(self, x: Tensor) -> list[Tensor]:
        """What the file takes of our sample."""
        if self.layout != "channels_first" and x.dim() > 2:
            x = x.permute(0, *range(2, x.dim()), 1)  # our own samples, channels last
        if self.layout == "as_it_is" and x.is_floating_point():
            x = x.reshape(-1, *self.sample)
        return [x]

    def chosen_of(self, answer: Any) -> Tensor:
        """The answer that counts, of the file's."""
        answers = answer if isinstance(answer, (tuple, list)) else [answer]
        if len(self.chosen) > 1:
            return join([answers[place] for place in self.chosen.values()], list(self.chosen))
        scores: Tensor = answers[next(iter(self.chosen.values()))]
        return scores.flatten(1) if self.flat else scores


class SeveralInputs(ImportedNetwork):
    """As `ImportedNetwork`, of a file with several `inputs`: takes (N, 1, total), each of them flattened, one behind the other."""

    def __init__(self, body: nn.Module, inputs: Sequence[NamedInput], chosen: dict[str, int], flat: bool) -> None:
        super().__init__(body, "as_it_is", (), chosen, flat)
        self.inputs = tuple(inputs)

    def fed(self, x: Tensor) -> list[Tensor]:
        starts = itertools.accumulate((entry.size for entry in self.inputs), initial=0)
        return [part(x, start, entry) for entry, start in zip(self.inputs, starts, strict=False)]


def imported_network(folder: Path, given: Imported, flat: bool) -> nn.Module:
    """The network of the recipe's model file. `flat`: the task has one score per class. Raises ModelError and UsageError."""
    inputs = tuple(entry.named for entry in given.inputs)
    found = open_import(folder / given.model, tuple(given.shape), inputs)
    names = [port.name for port in found.outputs]
    wanted = given.chosen or (names[0],)
    for name in wanted:
        if name not in names:
            raise UsageError(f"imported.output: {given.model} has no output {name!r}; it has {', '.join(names)}")
    chosen = {name: names.index(name) for name in wanted}
    if inputs:
        return SeveralInputs(copy.deepcopy(found.network), inputs, chosen, flat)
    return ImportedNetwork(copy.deepcopy(found.network), given.layout, found.inputs[0].shape, chosen, flat)


def open_import(path: Path, shape: tuple[int, ...] = (), inputs: tuple[NamedInput, ...] = ()) -> Any:
    """The file as torch layers, checked against its own runtime; read once for each content. Raises ModelError.

    `shape`: of one sample of the only input; `inputs`: the file's, if it has several.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file; imported.model names a file beside the recipe")
    return _opened(str(path), sha256(path), shape, inputs)


@lru_cache(maxsize=4)
def _opened(path: str, digest: str, shape: tuple[int, ...], inputs: tuple[NamedInput, ...]) -> Any:
    from edgeloop_exporters.model_files.reading import read
    from edgeloop_exporters.onnx_import import read_onnx
    from edgeloop_exporters.token_inputs import TOKENS

    sizes = {tensor.name: shape for tensor in read(path).inputs} if shape else {entry.name: entry.shape for entry in inputs}
    found = read_onnx(Path(path), sizes=sizes)
    if inputs:
        there, said = [(p.name, p.shape) for p in found.inputs], [(entry.name, entry.shape) for entry in inputs]
        if there != said:
            raise ModelError(f"{path}: has the inputs {there}, and imported.inputs says {said}; correct the recipe")
        return found
    if len(found.inputs) != 1:
        names = ", ".join(f"{port.name} {port.dtype}{list(port.shape)}" for port in found.inputs)
        raise ModelError(
            f"{path}: has {len(found.inputs)} inputs ({names}); a network here takes one: edgeloop pack takes it as it is"
        )
    if not found.inputs[0].dtype.startswith("float") and found.inputs[0].name != TOKENS:
        raise ModelError(
            f"{path}: its input {found.inputs[0].name} takes {found.inputs[0].dtype}; a network here takes numbers (float):"
            " edgeloop pack takes it as it is"
        )
    return found
