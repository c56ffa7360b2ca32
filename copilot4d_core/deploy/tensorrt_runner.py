# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The runner of machines with a GPU: dense nets in TensorRT, sparse stages in the same kernels, one stream, one memory.

What goes in: points, or tokens and rays. What comes out: tokens, or what each ray meets.
Unusual: a frame is one sequence on one stream, and the host waits once, at its end: points (x, y, z) cross the bus once in, tokens
or depths once out. Where the listed cells outgrow their memory, the end of the frame shows it and the frame is rendered again.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import warp as wp

from copilot4d_core.config import Config
from copilot4d_core.data.rays import Rays
from copilot4d_core.deploy.gpu_session import Gpu, GpuError, GpuSession
from copilot4d_core.deploy.kernel_weights import KernelWeights
from copilot4d_core.deploy.manifest import networks
from copilot4d_core.deploy.rendering import rendering_from_march
from copilot4d_core.deploy.runner import Rendering, TokenArray, check_points, check_token_grid
from copilot4d_core.deploy.stage_clock import StageClock
from copilot4d_core.deploy.tensorrt_engine import TensorrtEngine
from copilot4d_core.deploy.token_prior import TokenPrior
from copilot4d_core.grid import BoolArray, FloatArray, Grid
from copilot4d_core.kernels.feature_readout import FeatureReadout
from copilot4d_core.kernels.pillar_features import PillarFeatures
from copilot4d_core.kernels.ray_march import Rows, march_rays
from copilot4d_core.kernels.skip_mask import SkipMask
from copilot4d_core.kernels.voxelize import VoxelBuffers, voxelize_into

FIRST_POINTS, FIRST_RAYS = 262_144, 131_072
"""Points and rays that there is memory for at first; a larger frame takes more."""
CELL_SHARE = 8
"""There is memory at first for one cell in this many of the feature grid; KITTI scans list one in nine with `mini`."""


class _PointMemory(NamedTuple):
    """What grows with the points of a scan."""

    host: FloatArray
    device: Any
    voxels: VoxelBuffers
    pillars: PillarFeatures
    arrays: list[Any]
    """Everything on the device, to give back."""


@dataclass
class _RayMemory:
    """What grows with the rays of a frame, and how many rays lie in it from the frame before."""

    host: FloatArray
    host_result: FloatArray
    origins: Any
    directions: Any
    result: Any
    count: int = -1


class TensorrtRunner:
    """Runs built engines; see `Runner` for the contract. Calls may come from any thread, one at a time."""

    def __init__(self, config: Config, model_id: str, weights: KernelWeights, engines: dict[str, bytes], gpu: Gpu) -> None:
        """Take hold of the GPU and allocate.

        Args:
            weights: of the sparse stages.
            engines: verified engine files, `encoder` and `decoder`.
            gpu: modules and device.
        Raises:
            GpuError: no device, no memory, or an engine that TensorRT refuses; nothing stays allocated.
            ValueError: an engine whose tensors are not the manifest's.
        """
        self.config, self.model_id, self.grid = config, model_id, Grid(config)
        self.prior: TokenPrior | None = None  # `open_runner` knows where it lies
        self.backend = "tensorrt, engines " + ", ".join(f"{name} {hashlib.sha256(data).hexdigest()[:12]}" for name, data in engines.items())
        self._weights, self._clock, self._lock = weights, StageClock(), threading.Lock()
        self._is_closed = False
        self._failure = ""
        self._engines: dict[str, TensorrtEngine] = {}
        self._events: list[Any] = []
        self._session = GpuSession(gpu)
        with ExitStack() as undo:
            undo.callback(self._close)
            with self._session.active():
                with self._session.kernel_scope():
                    self._allocate()
                for name, buffers in (("encoder", ("patches", "tokens")), ("decoder", ("tokens", "features", "skip_logits"))):
                    self._engines[name] = TensorrtEngine(name, engines[name], networks(config)[name],
                                                         {tensor: self._buffers[tensor] for tensor in buffers}, self._session)
            undo.pop_all()

    def _allocate(self) -> None:
        session, memory = self._session, self._session.memory
        specs = {spec.name: spec for network in networks(self.config).values() for side in network for spec in side}
        self._buffers = {name: memory.array(spec.shape, wp.float32 if spec.dtype == "float32" else wp.int32) for name, spec in specs.items()}
        self._patch_cells = _view(self._buffers["patches"], self.config.swin.dims[0], vectors=True)
        self._feature_rows = _view(self._buffers["features"], self.config.swin.dims[0], vectors=False)
        self._host_tokens = session.host(specs["tokens"].shape, np.int32)
        self._host_total = session.host((1,), np.int32)
        self._mask = SkipMask(self.grid, memory)
        self._readout = FeatureReadout(self._weights.readout, self.grid, int(np.prod(self.grid.feature_cells_YXZ)) // CELL_SHARE, memory)
        self._events += [session.event() for _ in range(3)]
        self._points, self._rays = self._point_memory(FIRST_POINTS), self._ray_memory(FIRST_RAYS)

    def _point_memory(self, points: int) -> _PointMemory:
        memory = self._session.memory
        arrays: list[Any] = []

        def empty(shape: Any, dtype: Any, device: str) -> Any:
            arrays.append(memory.empty(shape, dtype=dtype, device=device))
            return arrays[-1]

        noted = memory._replace(empty=empty)
        pillars = PillarFeatures(self._weights.pillars, self.grid, points, noted)
        return _PointMemory(self._session.host((points, 3), np.float32), noted.array((points, 3), wp.float32), VoxelBuffers(points, noted),
                            pillars, arrays)

    def _ray_memory(self, rays: int) -> _RayMemory:
        session, memory = self._session, self._session.memory
        return _RayMemory(session.host((2, rays, 3), np.float32), session.host((Rows.RETURNS * rays,), np.float32), memory.array(rays, wp.vec3),
                          memory.array(rays, wp.vec3), memory.array(Rows.RETURNS * rays, wp.float32))

    def _grow(self, points: int, rays: int) -> None:
        """Have memory for this many points and rays; the old memory is given back first."""
        session, old_points, old_rays = self._session, self._points, self._rays
        if points > len(old_points.host):
            session.free_host(old_points.host)
            for array in old_points.arrays:
                session.memory.free(array)
            with session.kernel_scope():
                self._points = self._point_memory(points)
        if rays > old_rays.host.shape[1]:
            for host in (old_rays.host, old_rays.host_result):
                session.free_host(host)
            for array in (old_rays.origins, old_rays.directions, old_rays.result):
                session.memory.free(array)
            self._rays = self._ray_memory(rays)

    def __enter__(self) -> TensorrtRunner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._close()

    def _close(self) -> None:
        with suppress(GpuError), self._session.active():
            for engine in reversed(self._engines.values()):
                engine.close()
        self._events.clear()
        self._session.close()

    @property
    def stage_ms(self) -> dict[str, float]:
        return self._clock.ms

    def encode(self, points_m: FloatArray) -> TokenArray:
        """Tokens of one scan, (H, W) uint16; row = y, column = x.

        Raises:
            ValueError: no points, not (N, 3), or coordinates that are NaN or infinite.
            GpuError: the GPU failed, in this call or before.
        """
        check_points(points_m)
        with self._frame():
            count, session = len(points_m), self._session
            self._grow(count, 0)
            points = self._points
            points.host[:count] = points_m[:, :3]
            self._events[0].record(session.stream)
            session.upload(points.device, points.host[:count])
            with session.kernel_scope():
                voxelize_into(points.voxels, points.device, count, self.grid)
                points.pillars(points.device, points.voxels, count, self._patch_cells)
            self._events[1].record(session.stream)
            self._engines["encoder"].enqueue(session.stream)
            session.download(self._host_tokens, self._buffers["tokens"])
            self._events[2].record(session.stream)
            self._wait("voxelize", "encode")
            return self._host_tokens.astype(np.uint16)

    def decode(self, tokens: TokenArray, rays: Rays, with_returns: bool = False) -> Rendering:
        """What each ray meets, with the skip mask that the tokens predict.

        Raises:
            ValueError: a grid of another shape, or a token that the codebook does not have.
            GpuError: the GPU failed, in this call or before.
        """
        return self._render(tokens, rays, None, with_returns)

    def decode_with_mask(self, tokens: TokenArray, rays: Rays, mask: BoolArray, with_returns: bool = False) -> Rendering:
        """As `decode`, with a given skip mask, (Y, X, Z) bool."""
        return self._render(tokens, rays, mask, with_returns)

    def depth(self, tokens: TokenArray, rays: Rays) -> FloatArray:
        """The `depth_m` of `decode` alone, (R,); raises as `decode` does."""
        return np.asarray(self._marched(tokens, rays, None, Rows.DEPTH)[0])

    def _render(self, tokens: TokenArray, rays: Rays, mask: BoolArray | None, with_returns: bool) -> Rendering:
        marched = self._marched(tokens, rays, mask, Rows.RETURNS if with_returns else Rows.RENDERING)
        return rendering_from_march(marched, self.config.rendering.opacity_threshold)

    def _marched(self, tokens: TokenArray, rays: Rays, mask: BoolArray | None, rows: Rows) -> FloatArray:
        check_token_grid(tokens, self.config, self.model_id)
        with self._frame():
            count, session = len(rays.directions), self._session
            self._grow(0, count)
            self._host_tokens[...] = tokens
            self._events[0].record(session.stream)
            session.upload(self._buffers["tokens"], self._host_tokens)
            self._engines["decoder"].enqueue(session.stream)
            self._upload_rays(rays)
            self._events[1].record(session.stream)
            self._march(count, rows, mask)
            if self._host_total[0] > self._readout.capacity:
                with session.kernel_scope():
                    self._readout.grow(int(self._host_total[0]) * 5 // 4)
                self._march(count, rows, mask)
            return np.array(self._rays.host_result[:rows * count].reshape(rows, count))

    def _upload_rays(self, rays: Rays) -> None:
        """Rays cross the bus only when they are not those of the frame before: a sensor's pattern stays as it is."""
        count, memory = len(rays.directions), self._rays
        if memory.count == count and np.array_equal(memory.host[:, :count], (rays.origins_m, rays.directions)):
            return
        memory.host[:, :count], memory.count = (rays.origins_m, rays.directions), count
        self._session.upload(memory.origins, memory.host[0, :count])
        self._session.upload(memory.directions, memory.host[1, :count])

    def _march(self, count: int, rows: Rows, mask: BoolArray | None) -> None:
        """From the decoder's output to the result in page-locked memory; waits."""
        session, rays = self._session, self._rays
        with session.kernel_scope():
            if mask is None:
                self._mask.fill_from_logits(self._buffers["skip_logits"])
            else:
                self._mask.fill(mask)
            self._readout(self._feature_rows, self._mask)
            result = rays.result[:rows * count].reshape((rows, count))
            march_rays(self._readout, self._mask, rays.origins, rays.directions, count, result)
        session.download(rays.host_result[:rows * count], rays.result)
        session.download(self._host_total, self._readout.ends, 4 * (len(self._readout.ends) - 1))
        self._events[2].record(session.stream)
        self._wait("decode", "render")

    def _wait(self, *stages: str) -> None:
        self._session.stream.synchronize()
        for number, stage in enumerate(stages):
            self._clock.put(stage, float(self._events[number + 1].time_since(self._events[number])))

    @contextmanager
    def _frame(self) -> Iterator[None]:
        """One call at a time, with the context current; after an error of the GPU every later call says so at once."""
        with self._lock:
            if self._is_closed:
                raise GpuError("GPU: the runner is closed; open a new one")
            if self._failure:
                raise GpuError(f"GPU: it failed before ({self._failure}); close this runner and open a new one")
            try:
                with self._session.active():
                    yield
            except GpuError as error:
                self._failure = str(error)
                raise


def _view(array: Any, dim: int, vectors: bool) -> Any:
    """A map (H, W, dim) as its rows: (H * W,) vectors, or (H * W, dim) numbers."""
    rows = array.size // dim
    dtype, shape = (wp.types.vector(length=dim, dtype=wp.float32), (rows,)) if vectors else (wp.float32, (rows, dim))
    return wp.array(ptr=array.ptr, dtype=dtype, shape=shape, capacity=4 * array.size, device=array.device)
