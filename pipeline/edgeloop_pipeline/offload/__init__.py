"""What is learned for work that is split between a device and a server."""
