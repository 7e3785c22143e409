"""Signed updates: asked for, fetched, tried and taken or given back, so that a power cut at any point leaves a verified model."""
