"""The workstation part of edgeloop: from a recipe to a verified bundle, staged, cached, resumable."""
