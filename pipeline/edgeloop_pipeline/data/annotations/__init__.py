"""Pictures with boxes: COCO, YOLO, Pascal VOC and CSV, read into one form."""

from edgeloop_pipeline.data.annotations.formats import FORMATS, format_of, read_annotations
from edgeloop_pipeline.data.annotations.pictures import AnnotatedPicture, Annotations, Box, Findings

__all__ = ["FORMATS", "AnnotatedPicture", "Annotations", "Box", "Findings", "format_of", "read_annotations"]
