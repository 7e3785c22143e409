"""`edgeloop new --data`: looks at a person's data, says what it understood, and writes a project that runs."""

from edgeloop_pipeline.wizard.look import look
from edgeloop_pipeline.wizard.plan import Plan
from edgeloop_pipeline.wizard.write import write

__all__ = ["Plan", "look", "write"]
