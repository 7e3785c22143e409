"""Training on small hardware: one loop for the teacher, the pruned network, the student and quantization-aware training."""
