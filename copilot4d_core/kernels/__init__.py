# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Warp kernels for the sparse, dynamic stages: one source for CPU and CUDA, each with a plain twin in test/reference.py."""
