"""No repair step begins after the ceiling of time; what is left out is known by name."""

from __future__ import annotations

import time

from edgeloop_pipeline.quantization.candidates import Candidate
from edgeloop_pipeline.quantization.repair import Repair
from edgeloop_pipeline.stages.quantize import Quantize


def made() -> Candidate:
    raise AssertionError("the step began")


def test_a_step_that_there_is_no_time_for_is_left_out_by_its_name() -> None:
    repair = object.__new__(Repair)
    repair.settings, repair.best, repair.left_out, repair.steps = Quantize(repair_seconds=60), Candidate(None, 0.5, 3.0), [], []  # type: ignore[arg-type]
    repair.began = time.perf_counter() - 61
    step = repair._try("equalization", made)
    assert not step.kept and step.metric == 0.5 and repair.left_out == ["equalization"] and not repair.steps
