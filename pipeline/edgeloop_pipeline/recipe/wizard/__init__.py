"""`edgeloop new --data`: looks at a person's data (`look`), says what it understood, and writes a project that runs (`write`)."""
