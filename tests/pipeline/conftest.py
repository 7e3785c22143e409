"""Fixtures of the tests of training."""

from training_parts import splits

__all__ = ["splits"]
