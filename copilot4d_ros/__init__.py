# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""ROS 2 adapters of the tokenizer: messages to arrays and back, the node, the bag player, the demo."""
