"""The workstation's part of updates: keys, signatures, publishing, and what the hub is asked for."""
