"""Makes, repairs and diagnoses quantized graphs, and measures their files."""
