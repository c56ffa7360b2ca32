# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""LiDAR tokenizer of CoPilot4D (ICLR 2024): points to discrete tokens and back to depth."""

__version__ = "0.1.0"
