"""Error families, by who must act. A message says where, what, and the remedy; commands print it as one sentence."""

__all__ = [
    "BundleError", "BundleTooNew", "DataError", "DeviceError", "EdgeloopError", "GateError", "ModelError", "NetworkError",
    "StorageError", "UsageError",
]  # fmt: skip


class EdgeloopError(Exception):
    """Base of every error that edgeloop reports; `exit_code` is what a command returns for it."""

    exit_code = 1


class GateError(EdgeloopError):
    """The run finished, but its result misses a floor or parity: change the recipe or the target."""

    exit_code = 1


class UsageError(EdgeloopError):
    """The command line or the recipe is wrong: correct what the message names."""

    exit_code = 2


class DataError(EdgeloopError):
    """Data are missing, damaged or of the wrong shape: fetch or repair them."""

    exit_code = 3


class ModelError(EdgeloopError):
    """The network cannot be traced, pruned, quantized or exported: change the layer the message names."""

    exit_code = 4


class BundleError(EdgeloopError):
    """The bundle is wrong: rebuild or download it again."""

    exit_code = 5


class BundleTooNew(BundleError):
    """The bundle needs a later edgeloop: update it."""


class DeviceError(EdgeloopError):
    """This machine cannot do it: install what is missing, or choose another target."""

    exit_code = 6


class StorageError(EdgeloopError):
    """A disk is full or a folder cannot be written: make room or choose another folder."""

    exit_code = 7


class NetworkError(EdgeloopError):
    """The other side is not available, slow, or answers wrongly. Nothing is lost: check the address, or try again later."""

    exit_code = 8
