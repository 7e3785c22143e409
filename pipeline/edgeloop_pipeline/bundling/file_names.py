"""The names of the files that one stage writes and the package stage reads."""

from __future__ import annotations

CUTS = "split.json"
CASCADE = "cascade.json"
CANARY = "canary.npz"
GOLDEN = "golden-"  # the variant's name follows
OWN_STEPS = "steps-"  # so too: of an int8 file with scales of its own
DRIFT = "drift.json"
CARD = "README.md"  # the model card, under the name that model hubs read
