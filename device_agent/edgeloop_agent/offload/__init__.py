"""Splits inference between this device and servers: planned from measurements, under a deadline, with the device as fallback."""
