"""The places of the best values, as exporters know them: torch alone has to sort to keep equal values in their order."""

from __future__ import annotations

import operator

from torch import fx

from edgeloop_exporters.graph import aten

__all__ = ["with_top_places"]


def with_top_places(module: fx.GraphModule) -> fx.GraphModule:
    """Stable sorts of which the first places alone are read become a choice of the best, which both runtimes make in order."""
    for node in list(module.graph.nodes):
        if node.target is not aten.sort.stable:
            continue
        places = [user for user in node.users if user.target is operator.getitem and user.args[1] == 1]
        reads = [reader for place in places for reader in place.users]
        if any(user not in places and user.users for user in node.users) or not reads or not all(map(_is_first, reads)):
            continue
        along, falling = node.kwargs.get("dim", -1), node.kwargs.get("descending", False)
        for read in reads:
            with module.graph.inserting_before(read):
                best = module.graph.call_function(aten.topk.default, (node.args[0], read.args[3], along, falling, True))
                chosen = module.graph.call_function(operator.getitem, (best, 1))
            chosen.meta = dict(read.meta)
            read.replace_all_uses_with(chosen)
            module.graph.erase_node(read)
        for user in list(node.users):
            module.graph.erase_node(user)
        module.graph.erase_node(node)
    module.recompile()
    return module


def _is_first(read: fx.Node) -> bool:
    return bool(read.target is aten.narrow.default and read.args[2] == 0)
