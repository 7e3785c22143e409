"""The reference project photos: its networks, without their weights."""

from __future__ import annotations

import math

import pytest
import torch

from edgeloop_pipeline.recipe.recipe import reference_projects
from edgeloop_pipeline.recipe.user_code import load_object


@pytest.mark.parametrize(("name", "parameters"), [("lite0", 4_652_008), ("lite2", 6_092_072)])
def test_a_size_has_the_published_parameters_and_pads_as_tensorflow_does(name: str, parameters: int) -> None:
    """SAME padding leaves a side of ceil(side / 32) before pooling; 260 becomes odd on the way, where it is not as with even sides."""
    folder = reference_projects()["photos"]
    side = load_object(folder, f"network.py:{name.upper()}").side
    network = load_object(folder, f"network.py:efficientnet_{name}")((3, side, side), 1000).eval()
    assert sum(p.numel() for p in network.parameters()) == parameters
    with torch.no_grad():
        found = network.head(network.blocks(network.stem(torch.zeros(1, 3, side, side))))
    assert found.shape == (1, 1280, math.ceil(side / 32), math.ceil(side / 32))
