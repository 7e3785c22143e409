"""Formats and messages that workstation, hub and device share."""
