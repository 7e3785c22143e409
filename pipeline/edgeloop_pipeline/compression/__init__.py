"""Makes networks smaller: pruning, width scaling, and the search for a budget."""
