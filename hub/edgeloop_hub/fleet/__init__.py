"""The fleet: devices, what they report, and what they are to do."""
