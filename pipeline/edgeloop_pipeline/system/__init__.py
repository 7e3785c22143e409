"""The operating system: memory, signals, child processes."""
