# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Random streets for the LiDAR simulator: a road with kerbs, houses, walls, trees, poles, people, parked and moving cars.

What goes in: a random generator and a length. What comes out: a `Street`, which gives the scene of any moment.
The road runs along x with its middle at y = 0 and z = 0; traffic keeps to the right, so the own lane is at y < 0.
The spread of every number is our choice, wide on purpose: from an open country road to a dense city street.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from copilot4d_core.data.raycast import Doubles, Ground, Scene, Solids, no_solids

LANE_M = 1.8
"""Distance of each lane's middle from the middle of the road."""
CLEAR_AHEAD_M = 12.0
"""Free road before and behind the own vehicle at the start."""


class Style(NamedTuple):
    """What kind of street it is; every value drawn once a street."""

    road_half_m: float
    pavement_m: float
    setback_m: float
    houses: float
    """Share of the street front that houses fill, 0 to 1."""
    house_height_m: float
    walls: float
    """Share of the street front that garden walls and hedges fill, 0 to 1."""
    tree_gap_m: float
    field_gap_m: float
    """Gap between the trees of the land behind the houses, along the street."""
    pole_gap_m: float
    parking: float
    """Share of parking places that are taken, 0 to 1; 0 leaves the kerb free."""
    traffic_gap_m: float
    people_gap_m: float


class Street(NamedTuple):
    """A street; things that move do so along x."""

    ground: Ground
    boxes: Solids
    box_speeds_mps: Doubles
    """Along x; one a box."""
    cylinders: Solids
    crowns: Solids
    leaf_depth_m: float

    def scene(self, time_s: float, x_m: float, reach_m: float) -> Scene:
        """The solids near x at a time."""
        moved = self.boxes.centers_m.copy()
        moved[:, 0] += self.box_speeds_mps * time_s
        boxes = self.boxes._replace(centers_m=moved)
        near = [_near(solids, x_m, reach_m) for solids in (boxes, self.cylinders, self.crowns)]
        return Scene(self.ground, near[0], near[1], near[2], self.leaf_depth_m)


def random_style(rng: np.random.Generator) -> Style:
    """Draw the kind of street: country, suburb or city, and everything between."""
    city = rng.uniform()
    parking = rng.uniform(0.2, 0.9) if rng.uniform() < 0.3 + 0.5 * city else 0.0
    return Style(
        road_half_m=rng.uniform(3.4, 5.0) + (2.2 if parking else 0.0),
        pavement_m=rng.uniform(1.0, 2.0 + 2.5 * city),
        setback_m=rng.uniform(0.0, 12.0) * (1.1 - city),
        houses=float(np.clip(rng.normal(city, 0.2), 0.0, 0.95)),
        house_height_m=rng.uniform(4.0, 7.0 + 14.0 * city),
        walls=rng.uniform(0.0, 0.9),
        tree_gap_m=_evenly_in_log(rng, 5.0, 50.0),
        field_gap_m=_evenly_in_log(rng, 2.0, 40.0),
        pole_gap_m=rng.uniform(12.0, 45.0),
        parking=parking,
        traffic_gap_m=_evenly_in_log(rng, 15.0, 150.0),
        people_gap_m=60.0 / (0.1 + 4.0 * city * rng.uniform()),
    )


def _evenly_in_log(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def random_street(rng: np.random.Generator, start_m: float, end_m: float, own_speed_mps: float) -> Street:
    """A street between two x; the own vehicle starts at x = 0 in the right lane and meets nothing in it.

    Args:
        rng: the same state gives the same street.
        start_m, end_m: from where to where things stand.
        own_speed_mps: speed of the own vehicle, which those ahead and behind keep too.
    """
    draft = _Draft(rng, random_style(rng), start_m, end_m)
    for side in (-1.0, 1.0):
        draft.houses(side)
        draft.walls(side)
        draft.trees(side)
        draft.poles(side)
        draft.people(side)
        draft.parked_cars(side)
    draft.traffic(-1.0, own_speed_mps)
    draft.traffic(1.0, -rng.uniform(0.5, 1.3) * own_speed_mps)
    return draft.street()


class _Draft:
    """A street while things are put into it."""

    def __init__(self, rng: np.random.Generator, style: Style, start_m: float, end_m: float) -> None:
        self.rng, self.style, self.start_m, self.end_m = rng, style, start_m, end_m
        self.ground = self._ground()
        self._boxes: list[list[float]] = []
        self._cylinders: list[list[float]] = []
        self._crowns: list[list[float]] = []

    def _ground(self) -> Ground:
        kerb, road, walk = self.rng.uniform(0.03, 0.18), self.style.road_half_m, self.style.pavement_m
        camber = road * self.rng.uniform(0.0, 0.025)
        banks = self.rng.uniform(-0.06, 0.12, 2) * self.rng.uniform()
        right = [-road - walk - 30.0, -road - walk, -road - 0.02, -road]
        left = [road, road + 0.02, road + walk, road + walk + 30.0]
        side = np.array([-camber, kerb - camber, kerb - camber])
        z = [*reversed([*side, side[2] + 30.0 * banks[0]]), 0.0, *side, side[2] + 30.0 * banks[1]]
        bump_length_m = self.rng.uniform(8.0, 25.0)
        return Ground(np.array([*right, 0.0, *left]), np.array(z), float(self.rng.uniform(0.1, 0.35)),
                      bump_length_m * self.rng.uniform(0.0, 0.003), bump_length_m)

    def _box(self, x: float, y: float, z: float, size: tuple[float, float, float], yaw: float, albedo: float,
             gloss: float = 1.0, speed: float = 0.0) -> None:
        self._boxes.append([x, y, z + size[2] / 2, *(s / 2 for s in size), yaw, albedo, gloss, speed])

    def _upright(self, x: float, y: float, z: float, radius: float, height: float, albedo: float) -> None:
        self._cylinders.append([x, y, z + height / 2, radius, radius, height / 2, 0.0, albedo, 1.0])

    def _front_m(self) -> float:
        return self.style.road_half_m + self.style.pavement_m

    def houses(self, side: float) -> None:
        """A row of houses with gaps; each stands a little askew, some with a bay towards the street."""
        x, draw = self.start_m, self.rng.uniform
        while x < self.end_m:
            width, depth = draw(7, 22), draw(8, 14)
            if draw() < self.style.houses:
                y = side * (self._front_m() + self.style.setback_m + draw(0.1, 1.5) + depth / 2)
                height, albedo = self.style.house_height_m * draw(0.7, 1.3), draw(0.2, 0.8)
                # Their feet lie below every ground, so that no ray passes under them.
                self._box(x + width / 2, y, -2.0, (width, depth, height + 2.0), self.rng.normal(0, 0.015), albedo)
                if draw() < 0.5:
                    bay = (draw(1.5, 4), depth + draw(0.4, 2.0), height * draw(0.3, 0.9) + 2.0)
                    self._box(x + draw(2, width - 2), y, -2.0, bay, 0.0, albedo)
            x += width + (draw(8, 20) if draw() < 0.15 else draw(0.0, 3.0))

    def walls(self, side: float) -> None:
        """Garden walls, hedges and guard rails behind the pavement."""
        x, draw = self.start_m, self.rng.uniform
        while x < self.end_m:
            length = draw(4, 25)
            if draw() < self.style.walls:
                y = side * (self._front_m() + draw(0.1, 0.1 + self.style.setback_m))
                size = (length, draw(0.1, 0.8), draw(0.6, 2.2) + 0.2)
                self._box(x + length / 2, y, self.ground.height_m(y) - 0.2, size, self.rng.normal(0, 0.01), draw(0.2, 0.6))
            x += length + draw(0, 6)

    def _spots(self, gap_m: float) -> list[float]:
        gaps = gap_m * self.rng.uniform(0.5, 1.5, int(2 * (self.end_m - self.start_m) / gap_m) + 2)
        return [float(x) for x in self.start_m + np.cumsum(gaps) if x < self.end_m]

    def trees(self, side: float) -> None:
        """Trees and bushes: along the street, and on the land behind."""
        for x in self._spots(self.style.tree_gap_m):
            self._tree(x, side * (self._front_m() + self.rng.uniform(-0.6, 2.0 + self.style.setback_m)))
        for x in self._spots(self.style.field_gap_m):
            self._tree(x, side * (self._front_m() + self.style.setback_m + self.rng.uniform(2.0, 45.0)))

    def _tree(self, x: float, y: float) -> None:
        """A trunk with one to three crowns, or a bush: a crown on the ground."""
        draw, z = self.rng.uniform, self.ground.height_m(y)
        radius = draw(1.2, 3.5)
        if draw() < 0.3:
            self._crowns.append([x, y, z + 0.5, 0.6 * radius, 0.6 * radius, draw(0.6, 1.6), 0.0, 0.4, 1.0])
            return
        trunk, height = draw(2.2, 4.0), draw(1.5, 4.5)
        self._upright(x, y, z, draw(0.08, 0.35), trunk + 1.0, 0.3)
        for _ in range(self.rng.integers(1, 4)):
            dx, dy, dz = self.rng.normal(0, 0.3 * radius, 3)
            center = [x + dx, y + dy, z + trunk + 0.7 * height + 0.5 * dz]
            self._crowns.append([*center, radius * draw(0.6, 1.0), radius * draw(0.6, 1.0), height, 0.0, draw(0.3, 0.6), 1.0])

    def poles(self, side: float) -> None:
        """Lamp posts and signs."""
        for x in self._spots(self.style.pole_gap_m):
            y = side * (self.style.road_half_m + self.rng.uniform(0.3, 0.9))
            height, z = self.rng.choice([self.rng.uniform(2.2, 3.5), self.rng.uniform(5, 9)]), self.ground.height_m(y)
            self._upright(x, y, z, self.rng.uniform(0.04, 0.15), height, self.rng.uniform(0.3, 0.7))
            if height < 3.5:
                self._box(x, y, z + height - 0.7, (0.05, 0.6, 0.6), self.rng.normal(0, 0.2), 0.95)

    def people(self, side: float) -> None:
        """People on the pavement."""
        for x in self._spots(self.style.people_gap_m):
            y = side * (self.style.road_half_m + self.rng.uniform(0.3, max(0.4, self.style.pavement_m)))
            self._upright(x, y, self.ground.height_m(y), self.rng.uniform(0.18, 0.3), self.rng.uniform(1.2, 1.9), 0.4)

    def parked_cars(self, side: float) -> None:
        """Cars along the kerb."""
        x = self.start_m
        while self.style.parking and x < self.end_m:
            if self.rng.uniform() < self.style.parking:
                self._car(x, side * (self.style.road_half_m - 1.1), self.rng.normal(0.0, 0.03), 0.0)
            x += self.rng.uniform(5.2, 7.0)

    def traffic(self, side: float, speed_mps: float) -> None:
        """Cars in one lane."""
        for x in self._spots(self.style.traffic_gap_m):
            if side > 0 or abs(x) > CLEAR_AHEAD_M:
                self._car(x, side * LANE_M + self.rng.normal(0, 0.1), self.rng.normal(0, 0.01), speed_mps)

    def _car(self, x: float, y: float, yaw: float, speed_mps: float) -> None:
        """A body with a glass cabin on it, or a van."""
        paint, gloss = _evenly_in_log(self.rng, 0.03, 0.7), self.rng.uniform(1.0, 6.0)
        length, width, z = self.rng.uniform(3.6, 4.9), self.rng.uniform(1.6, 1.9), self.ground.height_m(y)
        if self.rng.uniform() < 0.12:
            self._box(x, y, z + 0.3, (length + 1.2, width + 0.2, self.rng.uniform(1.6, 2.6)), yaw, paint, gloss, speed_mps)
            return
        body = self.rng.uniform(0.55, 0.75)
        self._box(x, y, z + 0.2, (length, width, body), yaw, paint, gloss, speed_mps)
        cabin = (length * self.rng.uniform(0.45, 0.65), width - 0.25, self.rng.uniform(0.5, 0.75))
        self._box(x - 0.05 * length, y, z + 0.2 + body, cabin, yaw, 0.3 * paint, 2 * gloss, speed_mps)

    def street(self) -> Street:
        """The finished street."""
        speeds = np.array([row[9] for row in self._boxes])
        return Street(self.ground, _solids(self._boxes), speeds, _solids(self._cylinders), _solids(self._crowns),
                      float(self.rng.uniform(0.3, 1.2)))


def _near(solids: Solids, x_m: float, reach_m: float) -> Solids:
    kept = np.abs(solids.centers_m[:, 0] - x_m) < reach_m + solids.halves_m.max(axis=1, initial=0)
    return Solids(*(values[kept] for values in solids))


def _solids(rows: list[list[float]]) -> Solids:
    if not rows:
        return no_solids()
    table = np.array(rows)
    return Solids(table[:, :3], table[:, 3:6], table[:, 6], table[:, 7], table[:, 8])
