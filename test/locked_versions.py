# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What is installed beside this package, as exact versions: `python test/locked_versions.py > requirements.lock`.

Unusual: no hashes. pip takes them for all of a command's packages or for none, and a checkout that is installed from its folder has none.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import distributions

HEADER = f"# The environment that the tests ran in: Python {sys.version_info[0]}.{sys.version_info[1]}, {sys.platform}. `make lock` writes it."
TOOLS = {"pip", "setuptools", "wheel", "copilot4d-ros"}


def installed() -> dict[str, str]:
    """Version by normalised name of what pip installed; without local parts such as `+cpu`, which another index does not have."""
    found = {}
    for distribution in distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        # ROS's wheels carry lists of packages that no index has.
        if name not in TOOLS and (distribution.read_text("INSTALLER") or "").strip() == "pip":
            found[name] = distribution.version.partition("+")[0]
    return found


if __name__ == "__main__":
    print(HEADER, *(f"{name}=={version}" for name, version in sorted(installed().items())), sep="\n")
