# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Training on PyTorch Lightning: examples from scans, one step, checkpoints."""
