# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Where rays meet simple solids: boxes, upright cylinders, tree crowns and a ground whose height follows a profile.

What goes in: a `Scene` (metres, one world frame with z up), a start and directions. What comes out: for each ray the
nearest distance, how steeply it met the surface, and how much light comes back.
Unusual: computed in float64, because a thin pole at 100 m is lost to cancellation in float32. R rays, P pairs of a ray and a
solid whose surrounding sphere it meets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

RAYS_AT_ONCE = 32_768
"""Rays whose distance to every solid is held in memory together."""


class Solids(NamedTuple):
    """M solids of one kind."""

    centers_m: Doubles
    """(M, 3)."""
    halves_m: Doubles
    """(M, 3): half sizes of a box; radius, radius and half height of a cylinder; half axes of a crown."""
    yaws_rad: Doubles
    """(M,): turn of a box about z; without effect on the round kinds."""
    albedos: Doubles
    """(M,): share of the light that comes back when met squarely, 0 to 1."""
    glosses: Doubles
    """(M,): power of the cosine of incidence at which the light fades; 1 for dull surfaces, more for paint and glass."""


class Ground(NamedTuple):
    """A street that runs along x: K corners of its height over y, straight between them; level beyond the first and last."""

    y_m: Doubles
    """(K,) ascending."""
    z_m: Doubles
    """(K,)."""
    albedo: float
    bump_m: float = 0.0
    """Height of gentle bumps on the ground; small against `bump_length_m`."""
    bump_length_m: float = 12.0

    def height_m(self, y_m: float) -> float:
        """Height at a distance from the middle of the street."""
        return float(np.interp(y_m, self.y_m, self.z_m))


class Scene(NamedTuple):
    """Everything that rays can meet at one moment."""

    ground: Ground
    boxes: Solids
    cylinders: Solids
    crowns: Solids
    leaf_depth_m: float = 0.0
    """How far a ray gets into a crown on average; 0 makes crowns solid."""


class Hits(NamedTuple):
    """What each of R rays met."""

    distance_m: Doubles
    """(R,); infinity for nothing."""
    incidence: Doubles
    """(R,): cosine between ray and surface normal, 0 to 1; 0 for nothing."""
    brightness: Doubles
    """(R,): share of the light that comes back: albedo times a power of the incidence; 0 for nothing."""


def no_solids() -> Solids:
    """Solids with M = 0."""
    return Solids(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), np.zeros(0), np.zeros(0))


def cast(scene: Scene, origin_m: Doubles, directions: Doubles, rng: np.random.Generator) -> Hits:
    """Nearest surface along each ray.

    Args:
        scene: what there is.
        origin_m: (3,), outside every solid; a solid around it is not met.
        directions: (R, 3), unit length.
        rng: how far each ray gets into a crown.
    Returns:
        Hits of the R rays.
    """
    hits = _ground_hits(scene.ground, origin_m, directions)

    def crown(origin: Doubles, direction: Doubles, half: Doubles) -> tuple[Doubles, Doubles]:
        return _crown_hits(origin, direction, half, scene.leaf_depth_m, rng)

    for solids, meet in ((scene.boxes, _box_hits), (scene.cylinders, _cylinder_hits), (scene.crowns, crown)):
        _keep_nearest(hits, solids, meet, origin_m, directions)
    return hits


def _keep_nearest(hits: Hits, solids: Solids, meet: Callable[[Doubles, Doubles, Doubles], tuple[Doubles, Doubles]],
                  origin_m: Doubles, directions: Doubles) -> None:
    """Overwrite hits by those of solids that are nearer."""
    ray, solid = _candidates(solids, origin_m, directions)
    yaw = solids.yaws_rad[solid]
    start = _turned((origin_m - solids.centers_m)[solid], yaw)
    distance, incidence = meet(start, _turned(directions[ray], yaw), solids.halves_m[solid])
    met = np.flatnonzero(np.isfinite(distance))
    # NumPy keeps the last value written to a place, so the nearest is written last.
    met = met[np.argsort(-distance[met], kind="stable")]
    nearest = np.full(len(directions), -1, dtype=np.intp)
    nearest[ray[met]] = met
    better = np.flatnonzero(nearest >= 0)
    better = better[distance[nearest[better]] < hits.distance_m[better]]
    pair = nearest[better]
    hits.distance_m[better], hits.incidence[better] = distance[pair], incidence[pair]
    hits.brightness[better] = solids.albedos[solid[pair]] * incidence[pair] ** solids.glosses[solid[pair]]


def _candidates(solids: Solids, origin_m: Doubles, directions: Doubles) -> tuple[Indices, Indices]:
    """Pairs of a ray and a solid whose surrounding sphere it meets: (P,) ray and (P,) solid."""
    offset = solids.centers_m - origin_m
    # The ray passes the centre at sqrt(D^2 - along^2), which must not exceed the radius.
    along_squared = np.sum(offset**2, axis=1) - np.sum(solids.halves_m**2, axis=1)
    least = np.where(along_squared > 0, np.sqrt(np.maximum(along_squared, 0)), -np.inf).astype(np.float32) - np.float32(1e-3)
    narrow = offset.astype(np.float32).T
    rays, members = [], []
    for start in range(0, len(directions), RAYS_AT_ONCE):
        along = directions[start:start + RAYS_AT_ONCE].astype(np.float32) @ narrow
        ray, member = np.nonzero(along >= least)
        rays.append(ray + start)
        members.append(member)
    return np.concatenate([np.zeros(0, dtype=np.intp), *rays]), np.concatenate([np.zeros(0, dtype=np.intp), *members])


def _turned(vectors: Doubles, yaw_rad: Doubles) -> Doubles:
    """World vectors (P, 3) in frames that are turned by yaw about z."""
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    x, y = vectors[:, 0], vectors[:, 1]
    return np.stack([cos * x + sin * y, cos * y - sin * x, vectors[:, 2]], axis=1)


def _box_hits(origin: Doubles, direction: Doubles, half: Doubles) -> tuple[Doubles, Doubles]:
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = (-half - origin) / direction, (half - origin) / direction
    near, far = np.fmin(first, second), np.fmax(first, second)
    face = np.argmax(near, axis=1)
    entry = near.max(axis=1)
    met = (entry > 0) & (entry <= far.min(axis=1))
    return np.where(met, entry, np.inf), np.abs(np.take_along_axis(direction, face[:, None], axis=1)[:, 0])


def _cylinder_hits(origin: Doubles, direction: Doubles, half: Doubles) -> tuple[Doubles, Doubles]:
    radius = half[:, 0]
    o, d = origin[:, :2], direction[:, :2]
    flat = np.maximum(np.hypot(d[:, 0], d[:, 1]), 1e-12)
    along = -np.sum(o * d, axis=1) / flat
    aside = (o[:, 0] * d[:, 1] - o[:, 1] * d[:, 0]) / flat
    inside = np.sqrt(np.maximum(radius**2 - aside**2, 0))
    distance = (along - inside) / flat
    met = (np.abs(aside) < radius) & (distance > 0) & (np.abs(origin[:, 2] + distance * direction[:, 2]) <= half[:, 2])
    return np.where(met, distance, np.inf), flat * inside / radius


def _crown_hits(origin: Doubles, direction: Doubles, half: Doubles, leaf_depth_m: float,
                rng: np.random.Generator) -> tuple[Doubles, Doubles]:
    o, d = origin / half, direction / half
    a, b = np.sum(d * d, axis=1), np.sum(o * d, axis=1)
    closest = o - (b / a)[:, None] * d
    inside = np.sqrt(np.maximum(1 - np.sum(closest * closest, axis=1), 0) / a)
    entry, leave = -b / a - inside, -b / a + inside
    distance = entry + rng.exponential(leaf_depth_m, len(entry)) if leaf_depth_m else entry
    met = (inside > 0) & (entry > 0) & (distance < leave)
    normal = (o + entry[:, None] * d) / half
    incidence = np.abs(np.sum(normal * direction, axis=1)) / np.linalg.norm(normal, axis=1)
    return np.where(met, distance, np.inf), incidence


def _ground_hits(ground: Ground, origin_m: Doubles, directions: Doubles) -> Hits:
    y = np.concatenate([[-np.inf], ground.y_m, [np.inf]])
    slope = np.concatenate([[0.0], np.diff(ground.z_m) / np.diff(ground.y_m), [0.0]])
    height = np.concatenate([ground.z_m[:1], ground.z_m])
    start = np.concatenate([ground.y_m[:1], ground.y_m])
    hits = Hits(np.full(len(directions), np.inf), np.zeros(len(directions)), np.zeros(len(directions)))
    for low, high, steep, z, y_start in zip(y[:-1], y[1:], slope, height, start, strict=True):
        falling = directions[:, 2] - steep * directions[:, 1]
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = (z + steep * (origin_m[1] - y_start) - origin_m[2]) / falling
            y_hit = origin_m[1] + distance * directions[:, 1]
        met = (distance > 0) & (distance < hits.distance_m) & (y_hit >= low) & (y_hit <= high)
        hits.distance_m[met] = distance[met]
        hits.incidence[met] = np.abs(falling[met]) / np.hypot(1.0, steep)
        hits.brightness[met] = ground.albedo * hits.incidence[met]
    if ground.bump_m:
        _raise_bumps(ground, hits, origin_m, directions)
    return hits


def _raise_bumps(ground: Ground, hits: Hits, origin_m: Doubles, directions: Doubles) -> None:
    """Shift ground hits by the bumps there, to first order, which is near enough for bumps gentler than the rays."""
    met = np.flatnonzero(np.isfinite(hits.distance_m) & (directions[:, 2] < 0))
    place = origin_m[:2] + hits.distance_m[met, None] * directions[met, :2]
    wave = 2 * np.pi / ground.bump_length_m
    height = ground.bump_m * np.sin(wave * place[:, 0]) * np.sin(0.7 * wave * place[:, 1] + 1.0)
    hits.distance_m[met] *= np.clip(1.0 + height / (hits.distance_m[met] * directions[met, 2]), 0.9, 1.1)
