"""Groups of devices: who is in one, its channel, and when its devices take updates."""
