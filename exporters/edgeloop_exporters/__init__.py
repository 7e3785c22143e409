"""From torch to the files a device runs, and the proof that they say the same."""
