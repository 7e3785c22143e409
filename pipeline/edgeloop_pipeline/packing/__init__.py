"""Puts model files that exist already into a bundle, as they are (`edgeloop pack`)."""
