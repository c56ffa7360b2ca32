# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""How good a tokenizer is: metrics, the loop over scans, and the pictures that show it."""
