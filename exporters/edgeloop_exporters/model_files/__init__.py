"""Reads model files that somebody else made, and writes meaning into ours (docs/model-files.md), without torch and without a runtime."""

from edgeloop_exporters.model_files.description import (
    InputMeaning,
    Meaning,
    ModelFile,
    Normalization,
    StatePair,
    Tensor,
)
from edgeloop_exporters.model_files.reading import content_of, read
from edgeloop_exporters.model_files.side_files import read_labels

__all__ = ["InputMeaning", "Meaning", "ModelFile", "Normalization", "StatePair", "Tensor", "content_of", "read", "read_labels"]
