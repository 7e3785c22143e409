"""Controls the operating system: memory, signals, child processes, waiting threads."""
