"""Input normalization: given by the recipe, or computed from the training samples."""

from __future__ import annotations

import numpy as np

from edgeloop_contract.errors import DataError, ModelError
from edgeloop_exporters.normalization import InputNormalization
from edgeloop_pipeline.data.types import PreparedSplits, Statistics


def input_normalization(splits: PreparedSplits) -> InputNormalization:
    """The recipe's input normalization, or one from the training samples: per channel, or for uint8 one integer mean, so that
    raw counts stay integers. Raises DataError and ModelError."""
    values = splits.train.values
    if splits.normalize is not None:
        return _given(splits)
    if splits.dtype == "uint8":
        found = Statistics.of(values.reshape(*values.shape, 1))  # one for all channels
        return InputNormalization("uint8", (float(found.mean.round()[0]),), (max(float(found.std[0]), 1e-3),))
    found = Statistics.of(values)
    constant = found.std < 1e-9
    if constant.all():
        raise DataError("the training samples are constant: every value of a channel is the same; check the data")
    # A constant channel has no information: keep its scale, so that noise is not amplified.
    return InputNormalization(splits.dtype, tuple(found.mean.tolist()), tuple(np.where(constant, 1.0, found.std).tolist()))


def _given(splits: PreparedSplits) -> InputNormalization:
    assert splits.normalize is not None
    mean, std = splits.normalize
    channels = splits.shape[-1]
    if len(set(mean)) == len(set(std)) == 1 and {len(mean), len(std)} <= {1, channels} and splits.dtype == "uint8":
        return InputNormalization("uint8", mean[:1], std[:1])  # one for all: an integer mean keeps the counts integers
    if not {len(mean), len(std)} <= {1, channels}:
        raise ModelError(f"normalize: {len(mean)} means and {len(std)} stds for {channels} channels; give one, or one per channel")
    return InputNormalization(splits.dtype, mean * (channels // len(mean)), std * (channels // len(std)))
