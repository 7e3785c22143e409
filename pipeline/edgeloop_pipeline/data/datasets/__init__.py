"""Data sets in common layouts: class folders of images, sound or sensor recordings, and tables with a label."""

from edgeloop_pipeline.data.datasets.folders import ClassFolders, NormalFolders
from edgeloop_pipeline.data.datasets.recordings import Recordings
from edgeloop_pipeline.data.datasets.tables import Table, Values

__all__ = ["ClassFolders", "NormalFolders", "Recordings", "Table", "Values"]
