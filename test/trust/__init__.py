# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Tools that find out what the package survives: bad messages, bad files, long runs, killed recordings. Nothing here runs on a robot."""
