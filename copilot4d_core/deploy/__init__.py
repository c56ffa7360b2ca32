# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Running a trained tokenizer: the Runner contract, its implementations, and token files."""
