# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What a reader of recorded token grids must know: the latched `~/model_info` record.

Tokens mean nothing without the codebook that made them, so the record names the weights and holds all settings.
"""

from __future__ import annotations

from typing import Any

from copilot4d_core.config import Config
from copilot4d_core.config_file import dict_from_config
from copilot4d_core.data.sensors import BeamPattern, SphericalPattern
from copilot4d_core.deploy.token_file import INVALID_TOKEN
from copilot4d_core.grid import Grid

SCHEMA_VERSION = 1


def model_info(config: Config, model_id: str, pattern: SphericalPattern | BeamPattern) -> dict[str, Any]:
    """Description of the token grid and of the depth image, ready for JSON.

    Raises:
        ValueError: the codebook does not fit into 16 bits beside the invalid token.
    """
    if config.quantizer.codebook_size > INVALID_TOKEN:
        raise ValueError(f"model_info: expected at most {INVALID_TOKEN} codes, got {config.quantizer.codebook_size}; "
                         "16UC1 images cannot carry them")
    grid = Grid(config)
    return {
        "schema_version": SCHEMA_VERSION,
        "model_id": model_id,
        "codebook_size": config.quantizer.codebook_size,
        "token_dtype": "uint16",
        "invalid_token": INVALID_TOKEN,
        "grid": list(grid.tokens_HW),
        "row_axis": "y",
        "row_direction": "+y: row 0 starts at region_min_m[1]",
        "column_axis": "x",
        "column_direction": "+x: column 0 starts at region_min_m[0]",
        "flattening": "row-major",
        "region_min_m": [float(v) for v in grid.minimum_m],
        "region_max_m": [float(v) for v in grid.maximum_m],
        "cell_size_m": [float(v) for v in grid.token_size_m],
        "depth_image": {
            "rows": pattern.rows,
            "columns": pattern.columns,
            **_elevations(pattern),
            "row_direction": "row 0 is the highest beam",
            "column_direction": "column 0 looks backwards (azimuth +180 deg), then clockwise; the centre looks along +x",
            "unit": "m along the ray",
            "no_return": "NaN",
        },
        "config": dict_from_config(config),
    }


def _elevations(pattern: SphericalPattern | BeamPattern) -> dict[str, Any]:
    """Ends of evenly spaced rows, or what a sensor file says of each beam."""
    if isinstance(pattern, BeamPattern):
        beams = {"elevations_deg": pattern.elevations_deg, "azimuth_offsets_deg": pattern.azimuth_offsets_deg,
                 "origin_heights_m": pattern.origin_heights_m}
        return {"sensor": pattern.name, **{key: [float(value) for value in values] for key, values in beams.items() if values}}
    return {"elevation_min_deg": pattern.elevation_min_deg, "elevation_max_deg": pattern.elevation_max_deg}
