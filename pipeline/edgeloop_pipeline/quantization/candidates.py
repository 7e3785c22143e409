"""A quantized graph with its figures, and which of two is better."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from edgeloop_pipeline.quantization.quantized_graph import Graph

__all__ = ["TIE", "Candidate", "better"]

TIE = 0.001  # of the metric: the least difference that decides, for a validation set of any size


@dataclass
class Candidate:
    graph: Graph
    metric: float
    sqnr_db: float
    shares: Any = None  # (samples,) of validation, where the metric is their mean


def better(candidate: Candidate, best: Candidate, samples: int) -> bool:
    """Whether the candidate is better by the metric; and if the metrics differ by less than a standard error, of the difference
    where it is known, by the noise of the scores. `samples`: of validation.
    """
    gained, share = candidate.metric - best.metric, min(1.0, max(0.0, best.metric))
    error = math.sqrt(share * (1 - share) / samples)
    if candidate.shares is not None and best.shares is not None:
        error = float((candidate.shares - best.shares).std()) / math.sqrt(len(candidate.shares))
    tie = max(TIE, error)
    return gained > tie or (gained > -tie and candidate.sqnr_db > best.sqnr_db)
