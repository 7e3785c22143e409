"""Samples and events that wait for the hub: kept on disk under a ceiling, the most valuable longest, and sent when possible."""
