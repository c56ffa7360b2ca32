# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""How fast each stage is, how fast it could be, and how fast the alternatives are."""
