"""Early exits: a small classifier on a cut's boundary, and the confidence from which its answer is final.

After BranchyNet (Teerapittayanon et al. 2016), but the network stays unchanged: the exit takes the mean of each of the boundary's
channels, and one linear layer learns the whole network's scores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
import torch
from torch import Tensor

from edgeloop_contract.arrays import evenly_spaced_rows
from edgeloop_contract.manifest import Exit
from edgeloop_exporters import bottleneck_onnx
from edgeloop_pipeline.offload import cascade_threshold
from edgeloop_pipeline.results.files import EarlyExitTest
from edgeloop_pipeline.tasks.registry import task_for
from edgeloop_pipeline.training.scoring import in_batches, seed_everything

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgeloop_contract.arrays import Array
    from edgeloop_contract.manifest import Cut
    from edgeloop_pipeline.offload.cut_bench import CutBench
    from edgeloop_pipeline.recipe.inputs import Inputs

LEARNING_SAMPLES = 8192
STEPS, BATCH, LEARNING_RATE = 600, 256, 0.02
TEMPERATURE = 2.0
WORTH = 0.9  # if a larger share goes on, the exit costs more than it saves


class EarlyExits:
    """Early exits at the cuts of one model. `max_loss`: of accuracy against the whole network, by validation data."""

    def __init__(self, inputs: Inputs, work: CutBench, max_loss: float) -> None:
        splits = inputs.project.splits
        seed_everything(inputs.project.recipe.head.seed)
        self._work, self._most_loss, self._log = work, max_loss, inputs.log
        self._task, self._validation = task_for(splits), splits.validation
        rows = evenly_spaced_rows(len(splits.train), LEARNING_SAMPLES)
        self._samples = splits.train.values[rows]
        self._classes, self._test = splits.task == "classification", splits.test
        self.tested: dict[str, EarlyExitTest] = {}  # by cut: the effect of the chosen threshold on the test set
        if self._classes:
            self._scores = in_batches(work.whole.run, self._samples)
            self._whole, self._whole_test = (in_batches(work.whole.run, s.values) for s in (self._validation, self._test))
            pairs = ((self._whole, self._validation), (self._whole_test, self._test))
            self._alone = [float((scores.argmax(axis=1) == s.labels).mean()) for scores, s in pairs]

    def of(self, cut: Cut, out: Path) -> tuple[Cut, str]:
        """The cut with an early exit in its head; or the unchanged cut, and the reason."""
        if not self._classes:
            return cut, "only a classification has a confidence"
        head = (out / cut.file).read_bytes()
        runs = self._work.open(head)

        def seen(values: Array) -> Array:
            found: Array = in_batches(lambda x: means(runs.raw(x)), values)
            return found

        weight, bias = learn(seen(self._samples), torch.from_numpy(self._scores), self._task.imitation)
        early, early_test = (seen(s.values) @ weight.T + bias for s in (self._validation, self._test))
        point = cascade_threshold.chosen(cascade_threshold.curve(early, self._whole, self._validation.labels), self._most_loss, 1.0)
        if point.share > WORTH:
            return cut, f"{point.share:.0%} of the samples would go on, if no more than {self._most_loss:.1%} may be lost"
        model = bottleneck_onnx.with_exit(head, weight, bias)
        (out / cut.file).write_bytes(model)
        tested, whole = cascade_threshold.at(point.threshold, early_test, self._whole_test, self._test.labels), self._alone
        self.tested[cut.name] = EarlyExitTest(tested.share, tested.accuracy, whole[1])
        self._log(f"{cut.name}, test: {tested.share:.1%} go on; accuracy {tested.accuracy:.2%}, of the whole {whole[1]:.2%}")
        found = Exit(threshold=point.threshold, share=point.share, accuracy=point.accuracy, whole=whole[0])
        return msgspec.structs.replace(cut, exit=found, head_us=self._work.took(self._work.open(model), self._work.samples)), ""


def means(boundary: Array) -> Array:
    """The mean of each channel, float32 (N, C), of a boundary (N, C, ...)."""
    found: Array = boundary.reshape(*boundary.shape[:2], -1).astype(np.float32).mean(axis=2)
    return found


def learn(features: Array, scores: Array | Tensor, imitation: Callable[[Tensor, Tensor, float], Tensor]) -> tuple[Array, Array]:
    """Weight (classes, C) and bias (classes,) of the layer that imitates `scores` (N, classes). Deterministic by torch's seed."""
    x, wanted = torch.from_numpy(features), torch.as_tensor(scores)
    mean, spread = x.mean(0), x.std(0).clamp(min=1e-6)
    layer = torch.nn.Linear(x.shape[1], wanted.shape[1])
    optimizer = torch.optim.Adam(layer.parameters(), LEARNING_RATE, weight_decay=1e-5)
    pace = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(x), (min(BATCH, len(x)),))
        loss = imitation(layer((x[rows] - mean) / spread), wanted[rows], TEMPERATURE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pace.step()
    weight = (layer.weight / spread).detach()
    return weight.numpy(), (layer.bias - weight @ mean).detach().numpy()
