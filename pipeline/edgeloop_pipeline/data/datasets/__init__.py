"""Data sets in common layouts: class folders, recordings nobody labelled, tables with a label, pictures with boxes, and texts."""

from edgeloop_pipeline.data.datasets.annotated import PictureBoxes
from edgeloop_pipeline.data.datasets.folders import ClassFolders, NormalFolders
from edgeloop_pipeline.data.datasets.recordings import Recordings
from edgeloop_pipeline.data.datasets.tables import Table, Values
from edgeloop_pipeline.data.datasets.texts import Texts

__all__ = ["ClassFolders", "NormalFolders", "PictureBoxes", "Recordings", "Table", "Texts", "Values"]
