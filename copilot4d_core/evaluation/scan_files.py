# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Encode and decode on files: one scan to a token file, and a token file to a point cloud and a depth picture.

What goes in: a loaded model and checked paths. What comes out: files, and one line that says what was written.
Unusual: a token file knows no sensor, so decoding asks for the pattern of rays to look along; they start at the origin.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from copilot4d_core.data.pcd_writer import write_pcd
from copilot4d_core.data.scan import Rays, Scan
from copilot4d_core.data.sensors import SphericalPattern
from copilot4d_core.data.sources import BAG_ENDINGS, open_scans
from copilot4d_core.deploy.runner import Returns, Runner
from copilot4d_core.deploy.token_file import TokenFile, check_model, save_tokens
from copilot4d_core.evaluation.evaluate import points_on_rays
from copilot4d_core.evaluation.metrics import bits_per_scan
from copilot4d_core.grid import Grid


def read_scan(path: Path) -> Scan:
    """The scan of a file that holds exactly one.

    Raises:
        ValueError: a folder, a bag, or no scan at all.
    """
    if path.is_dir() or path.name.lower().endswith(BAG_ENDINGS):
        kind = "folder" if path.is_dir() else "bag"
        raise ValueError(f"{path}: expected one scan (.bin, .pcd.bin or .pcd), got a {kind} of many; "
                         "name one file of it, or use `copilot4d evaluate`, which reads folders and bags")
    return open_scans(path)[0]


def encode_scan(runner: Runner, scan: Scan, out: Path) -> str:
    """Write the tokens of a scan.

    Returns:
        One line for the reader.
    Raises:
        ValueError: no point lies inside the model's region.
    """
    grid = Grid(runner.config)
    inside = int(np.count_nonzero(grid.inside(scan.points_m)))
    if inside == 0:
        raise ValueError(f"{scan.name}: expected points inside the model's region "
                         f"{grid.minimum_m.tolist()} to {grid.maximum_m.tolist()} m, none of {len(scan.points_m)} is; "
                         "check the frame and unit of the file")
    tokens = runner.encode(scan.points_m)
    save_tokens(out, tokens, runner.model_id, runner.config)
    return (f"{out}: {tokens.shape[0]} x {tokens.shape[1]} tokens of model {runner.model_id}, {bits_per_scan(grid)} bits; "
            f"{inside} of {len(scan.points_m)} points lie inside the region")


def decode_tokens(runner: Runner, path: Path, file: TokenFile, pattern: SphericalPattern, *,
                  cloud: Path | None, picture: Path | None, with_returns: bool = False) -> str:
    """Write what a sensor at the origin would see: the points that were met, and the depth of every ray.

    Args:
        path: where the tokens came from, for messages.
        cloud: `.pcd` file to write, or None.
        picture: `.png` file to write, or None.
        with_returns: the cloud holds up to two returns of each ray, with their `weight` and their number on the ray (`return`, 1 or 2).
    Returns:
        One line for the reader.
    Raises:
        ValueError: the tokens are another model's.
    """
    check_model(path, file, runner.model_id, runner.config)
    rays = pattern.rays(np.zeros(3, dtype=np.float32))
    returns = None
    if with_returns:
        rendering = runner.decode(file.tokens, rays, with_returns=True)
        depth_m, returns = rendering.depth_m, rendering.returns
    else:
        depth_m = runner.depth(file.tokens, rays)
    if cloud is not None and returns is not None:
        _write_returns(cloud, rays, returns)
    elif cloud is not None:
        write_pcd(cloud, points_on_rays(rays, depth_m))
    if picture is not None:
        # Only here: decoding to a cloud works without matplotlib.
        from copilot4d_core.evaluation.pictures import depth_picture, save_figure

        save_figure(depth_picture(depth_m.reshape(pattern.rows, pattern.columns)), picture)
    written = " and ".join(str(p) for p in (cloud, picture) if p is not None)
    seconds = "" if returns is None else f", {np.count_nonzero(returns.weight[1])} have a second return"
    return f"{written}: {np.count_nonzero(np.isfinite(depth_m))} of {len(depth_m)} rays met something{seconds}"


def _write_returns(path: Path, rays: Rays, returns: Returns) -> None:
    there = returns.weight > 0
    points_m = np.concatenate([points_on_rays(rays, distance_m) for distance_m in returns.distance_m])
    write_pcd(path, points_m, {"weight": returns.weight[there], "return": np.nonzero(there)[0].astype(np.uint8) + np.uint8(1)})
