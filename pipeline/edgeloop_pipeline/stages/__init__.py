"""The stages of a recipe, one per file. Your own stage derives from `Base`."""

from edgeloop_pipeline.recipe.inputs import Inputs, Metrics
from edgeloop_pipeline.recipe.stage import Base

__all__ = ["Base", "Inputs", "Metrics"]
