# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Sources of LiDAR scans, the rays they hold, sensor patterns and a LiDAR simulator."""
