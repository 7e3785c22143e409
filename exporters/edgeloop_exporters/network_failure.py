"""Why a network cannot be run or traced, in one sentence that names its layer and line."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def explain_failure(network: nn.Module, sample: Tensor, error: Exception) -> str:
    """One sentence with the module that failed: run once in eager mode, remembering the module last entered."""
    entered: list[str] = []
    failed: list[str] = []
    hooks = []
    for name, module in network.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda *_, n=name or "(network)": entered.append(n)))
    try:
        with torch.no_grad():
            network(sample)
    except Exception as eager:  # any error of the user's own code
        failed.append(f"layer {entered[-1] if entered else '(network)'}: {_first_line(eager)}")
    finally:
        for hook in hooks:
            hook.remove()
    kind = type(network).__name__
    if failed:
        return f"{kind} cannot run on an input of shape {tuple(sample.shape)}: {failed[0]}; check the layer's sizes"
    where = _user_frame(str(error)) or f"in {type(network).__module__}"
    return (
        f"{kind} cannot be traced {where}: {_first_line(error)}; make control flow depend on shapes only,"
        " not on tensor values, or move it out of forward()"
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def _user_frame(text: str) -> str | None:
    """The last `File "…", line N, in forward` of torch's message that is outside torch itself."""
    frames = [line.strip() for line in text.splitlines() if line.strip().startswith("File ")]
    own = [frame for frame in frames if "/torch/" not in frame]
    return f"at {own[-1][5:]}" if own else None
