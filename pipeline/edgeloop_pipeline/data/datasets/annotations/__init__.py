"""Pictures with boxes: COCO, YOLO, Pascal VOC and CSV, read into one form."""
