# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The model. Read `tokenizer.py` first; every other file is one stage of it."""
