"""Work split between this device and servers: planned from measurements, under a deadline, never waiting for a server in vain."""
