"""Warp kernels for the sparse, dynamic stages: one source for CPU and CUDA, each with a plain twin in test/reference.py."""
