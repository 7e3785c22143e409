"""The stages of a recipe, one a file. A stage of your own derives from `Base`."""

from edgeloop_pipeline.recipe.stage_table import Base, Inputs, Metrics

__all__ = ["Base", "Inputs", "Metrics"]
