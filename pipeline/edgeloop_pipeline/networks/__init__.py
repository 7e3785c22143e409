"""Networks on disk and in memory, and how their inputs are normalized."""
