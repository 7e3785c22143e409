"""Scores of a bundle's canary by each of its int8 variants on this processor, as JSON."""

import json
import sys
from pathlib import Path

import numpy as np

from edgeloop_agent.hardware import machine
from edgeloop_agent.runtimes import open_runtime
from edgeloop_contract.archive import Bundle
from edgeloop_contract.manifest import Precision

MAX_INPUTS = 64

with Bundle.open(Path(sys.argv[1])) as bundle:
    canary, found = bundle.manifest.canary, {}
    inputs = bundle.array(canary.input)[:MAX_INPUTS]
    for variant in bundle.manifest.variants:
        if variant.precision == Precision.INT8:
            runtime = open_runtime(variant, bundle.read(variant.file))
            scores = np.concatenate([runtime.run(inputs[i : i + 1]) for i in range(len(inputs))]).reshape(len(inputs), -1)
            found[variant.name] = {"runtime": runtime.description, "scores": scores.tolist()}
    answer = {"variants": found, "step": canary.scores.step, "allowed_lsb": canary.scores.max_steps, "machine": machine()}
    sys.stdout.write(json.dumps(answer))
