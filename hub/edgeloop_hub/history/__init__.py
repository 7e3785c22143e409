"""What is kept of a device's reports when they are old: sums by hour, then by day."""
