"""The categories of a training step's time (no torch here)."""

KINDS = {
    "data": "data loading",
    "host": "host (Python between the kernels)",
    "compute": "compute kernels",
    "transfers": "transfers and copies",
    "optimizer": "optimizer",
    "idle": "idle device",
}
