"""Names of the files that one stage writes and package reads."""

from __future__ import annotations

CUTS = "split.json"
CASCADE = "cascade.json"
CANARY = "canary.npz"
GOLDEN = "golden-"  # of one variant, before its name
DRIFT = "drift.json"
