"""What the workstation does for a fleet: keys, releases, the hub, labels."""
