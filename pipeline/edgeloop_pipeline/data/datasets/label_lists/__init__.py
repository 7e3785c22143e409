"""Lists of recordings with several labels each: tables, JSON lines, and COCO categories; one form and one check for all."""
