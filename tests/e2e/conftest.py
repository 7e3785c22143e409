"""Fixtures of the tests of offloading."""

from offloading import built, hub

__all__ = ["built", "hub"]
