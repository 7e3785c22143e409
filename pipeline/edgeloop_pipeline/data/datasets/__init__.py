"""Data sets in common layouts: class folders of images, sound or sensor recordings, tables with a label, and texts."""

from edgeloop_pipeline.data.datasets.folders import ClassFolders, NormalFolders
from edgeloop_pipeline.data.datasets.recordings import Recordings
from edgeloop_pipeline.data.datasets.tables import Table, Values
from edgeloop_pipeline.data.datasets.texts import Texts

__all__ = ["ClassFolders", "NormalFolders", "Recordings", "Table", "Texts", "Values"]
