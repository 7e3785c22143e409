"""Data sets in common layouts: class folders of images, sound or sensor recordings, tables, pictures with boxes or
masks, lists of labels, texts."""

from edgeloop_pipeline.data.datasets.annotated import PictureBoxes
from edgeloop_pipeline.data.datasets.coco_masked import CocoMasks
from edgeloop_pipeline.data.datasets.folders import ClassFolders, NormalFolders
from edgeloop_pipeline.data.datasets.labelled import LabelledFiles
from edgeloop_pipeline.data.datasets.masked import PictureMasks
from edgeloop_pipeline.data.datasets.pointed import PicturePoints
from edgeloop_pipeline.data.datasets.recordings import Recordings
from edgeloop_pipeline.data.datasets.tables import Table, Values
from edgeloop_pipeline.data.datasets.texts import Texts

__all__ = [
    "ClassFolders",
    "CocoMasks",
    "LabelledFiles",
    "NormalFolders",
    "PictureBoxes",
    "PictureMasks",
    "PicturePoints",
    "Recordings",
    "Table",
    "Texts",
    "Values",
]
