"""Training on PyTorch Lightning: examples from scans, one step, checkpoints."""
