"""Samples and events for the hub: kept on disk up to a limit, the most valuable ones longest, and sent when possible."""
