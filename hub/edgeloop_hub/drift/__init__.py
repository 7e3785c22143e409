"""Drift over the fleet: reports, discoveries, and the accuracy that confidence promises."""
