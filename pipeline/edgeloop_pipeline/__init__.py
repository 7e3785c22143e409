"""From a recipe to a verified bundle: staged, cached, resumable."""
