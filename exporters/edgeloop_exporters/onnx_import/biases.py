"""A constant behind a dense layer becomes the layer's bias."""

from __future__ import annotations

import torch
from torch import fx, nn

__all__ = ["join_biases"]


def join_biases(network: fx.GraphModule) -> None:
    """A constant that is added to a dense layer's answer, and to nothing else, is the layer's bias."""
    for node in list(network.graph.nodes):
        if node.op != "call_module" or len(node.users) != 1:
            continue
        layer, (user,) = network.get_submodule(str(node.target)), node.users
        if (
            not isinstance(layer, nn.Linear)
            or layer._parameters["bias"] is not None
            or user.target is not torch.add
            or len(user.args) != 2
        ):
            continue
        other = next((arg for arg in user.args if arg is not node), None)
        if not isinstance(other, fx.Node) or other.op != "get_attr":
            continue
        value = getattr(network, str(other.target))
        if value.shape == (layer.out_features,):
            layer.bias = nn.Parameter(value.clone())
            node.meta["onnx"] = user.meta.get("onnx", "")
            user.replace_all_uses_with(node)
            network.graph.erase_node(user)
            if not other.users:
                network.graph.erase_node(other)
                delattr(network, str(other.target))
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()
