"""What several test files share: the folder of real recordings."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def lidar_data() -> Path:
    """Folder of real LiDAR recordings, beside the repository; a test that needs it is skipped where it is missing."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data" / "lidar"
    if not folder.is_dir():
        pytest.skip(f"needs the real recordings, which are not at {folder}")
    return folder
