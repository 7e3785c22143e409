"""edgeloop for people who write Python: open a bundle and ask it, run a recipe, quantize a network (docs/python.md).

    import edgeloop

    model = edgeloop.open("model.edgeloop")
    print(model("photo.jpg").label)

The same on a device (numpy and a runtime) and on a workstation. Names are imported when they are first used.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeloop.models import Answer, Box, Label, Mask, Model, Point, open
    from edgeloop.pictures import draw
    from edgeloop.quantizing import Quantized, QuantizeReport, quantize
    from edgeloop.runs import Event, Run, StageResult, run
    from edgeloop_contract.errors import (
        BundleError,
        DataError,
        DeviceError,
        EdgeloopError,
        GateError,
        ModelError,
        NetworkError,
        StorageError,
        UsageError,
    )
    from edgeloop_pipeline.data import Data, PreparedSplits, Samples, Split, Splits
    from edgeloop_pipeline.stages import Base as Stage
    from edgeloop_pipeline.stages import Inputs

__all__ = [
    "Answer", "Box", "BundleError", "Data", "DataError", "DeviceError", "EdgeloopError", "Event", "GateError", "Inputs",
    "Label", "Mask", "Model", "ModelError", "NetworkError", "Point", "PreparedSplits", "QuantizeReport", "Quantized", "Run",
    "Samples", "Split", "Splits", "Stage", "StageResult", "StorageError", "UsageError", "draw", "open", "quantize", "run",
]  # fmt: skip

_ERRORS = "edgeloop_contract.errors"
_HOMES = {
    **dict.fromkeys(("Answer", "Box", "Label", "Mask", "Model", "Point", "open"), "edgeloop.models"),
    "draw": "edgeloop.pictures",
    **dict.fromkeys(("Event", "Run", "StageResult", "run"), "edgeloop.runs"),
    **dict.fromkeys(("QuantizeReport", "Quantized", "quantize"), "edgeloop.quantizing"),
    **dict.fromkeys(("Data", "PreparedSplits", "Samples", "Split", "Splits"), "edgeloop_pipeline.data"),
    **dict.fromkeys(("Inputs", "Stage"), "edgeloop_pipeline.stages"),
    **{name: _ERRORS for name in __all__ if name.endswith("Error")},
}
_NAMES = {"Stage": "Base"}  # what the module calls it
_ON_A_WORKSTATION = {name for name, home in _HOMES.items() if home not in ("edgeloop.models", "edgeloop.pictures", _ERRORS)}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"edgeloop has no {name!r}; it has {', '.join(__all__)}")
    if name in _ON_A_WORKSTATION and (missing := [part for part in ("torch", "yaml") if importlib.util.find_spec(part) is None]):
        from edgeloop_contract.errors import DeviceError

        remedy = "pip install 'edgeloop[workstation]'"
        raise DeviceError(f"edgeloop.{name} needs a workstation's packages ({missing[0]} is not installed); {remedy}")
    return getattr(importlib.import_module(_HOMES[name]), _NAMES.get(name, name))


def __dir__() -> list[str]:
    return __all__
