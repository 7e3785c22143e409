"""What the time of a training step can go to (no torch here)."""

KINDS = {
    "data": "data loading",
    "host": "host (Python between the kernels)",
    "compute": "compute kernels",
    "transfers": "transfers and copies",
    "optimizer": "optimizer",
    "idle": "idle device",
}
