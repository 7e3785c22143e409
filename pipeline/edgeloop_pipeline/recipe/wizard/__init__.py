"""The wizard of `edgeloop new --data`: examines data (`look`), says what it found, and writes a project that runs (`write`)."""
