# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The two dense networks as ONNX graphs: patch map to tokens, tokens to the decoder's map and skip logits.

What goes in: the tensors of a model. What comes out: two static graphs without plugins, boundaries as in the manifest.
Unusual: the rows of a map stay in the order of the attention windows from block to block, so that roll, window partition
and their inverses are one Gather between two blocks. Linear maps that follow each other are multiplied beforehand, in
float64: codebook and decoder input to a table, and see `onnx_quantizers.py`. Scores stay in float32.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from copilot4d_core.code_table import code_table
from copilot4d_core.deploy.manifest import networks
from copilot4d_core.deploy.onnx_builder import Array, OnnxBuilder
from copilot4d_core.deploy.onnx_quantizers import token_rows
from copilot4d_core.grid import Grid
from copilot4d_core.kernels.swin_block import attention_bias
from copilot4d_core.model_file import Model
from copilot4d_core.positions import sincos_positions

IntOrder = npt.NDArray[np.int64]


def encoder_network(model: Model, precision: str) -> ModelProto:
    """Patch map to tokens: two Swin stages, pre-quantisation, quantiser.

    Args:
        precision: `fp32` or `fp16` for the Swin trunk; norms, scores and the boundary are float32 or, inside the trunk,
            accumulate in float32.
    """
    grid, swin, tensors = Grid(model.config), model.config.swin, model.tensors
    (height, width), tokens_HW, dims = grid.patches_HW, grid.tokens_HW, swin.dims
    build = OnnxBuilder(tensors)
    normed = build.layer_norm("encoder.norm", "patches")
    for axis, positions in zip(("row", "column"), _positions(height, width, dims[0]), strict=True):
        normed = build.node("Add", f"positions/{axis}", [normed, build.constant(f"positions/{axis}/table", positions)])
    x = build.reshape("map", normed, (height * width, dims[0]))
    x = build.cast("trunk", x, np.float16) if precision == "fp16" else x
    x, order = _stage(build, "encoder.stage1", x, np.arange(height * width), (height, width), swin.heads[0], swin.window, swin.encoder_depths[0])
    x = build.rows("merge/order", x, _from_to(order, _patch_order(height, width)))
    x = build.layer_norm("encoder.merge_norm", build.reshape("merge", x, (height * width // 4, 4 * dims[0])))
    x = build.linear("encoder.merge", x, tensors["encoder.merge.weight"].T, tensors["encoder.merge.bias"])
    x, order = _stage(build, "encoder.stage2", x, np.arange(height * width // 4), tokens_HW, swin.heads[1], swin.window, swin.encoder_depths[1])
    x = build.cast("latent", x, np.float32) if precision == "fp16" else x
    x = build.node("Gelu", "pre_quantizer.1", [build.layer_norm("pre_quantizer.0", x)])
    tokens = build.rows("tokens/order", token_rows(build, model, x), _from_to(order, np.arange(len(order))))
    if model.config.quantizer.blank_token:
        build.node("Mul", "tokens", [build.reshape("tokens/map", tokens, tokens_HW), _not_blank(build, (height, width))])
    else:
        build.reshape("tokens", tokens, tokens_HW)
    return build.model("encoder", networks(model.config)["encoder"], model.model_id)


def decoder_network(model: Model, precision: str) -> ModelProto:
    """Tokens to the decoder's map after the feature grid's norm, and the pooled logits of the skip branch."""
    grid, swin, tensors = Grid(model.config), model.config.swin, model.tensors
    (height, width), tokens_HW, dims = grid.patches_HW, grid.tokens_HW, swin.dims
    build = OnnxBuilder(tensors)
    build.dtype = np.dtype(np.float16 if precision == "fp16" else np.float32)
    table = code_table(model.config.quantizer, tensors).astype(np.float64) @ tensors["decoder.input.weight"].T + tensors["decoder.input.bias"]
    x = build.node("Gather", "codes", [build.constant("code_table", table), build.reshape("token_list", "tokens", (height * width // 4,))], axis=0)
    x, order = _stage(build, "decoder.stage2", x, np.arange(height * width // 4), tokens_HW, swin.heads[1], swin.window, swin.decoder_depths[0])
    x = build.linear("decoder.upsample", x, tensors["decoder.upsample.weight"].T, tensors["decoder.upsample.bias"])
    x = build.layer_norm("decoder.upsample_norm", build.reshape("children", x, (height * width, dims[1])))
    x = build.linear("decoder.upsample_linear", x, tensors["decoder.upsample_linear.weight"].T, tensors["decoder.upsample_linear.bias"])
    children = _patch_order(height, width).reshape(-1, 4)[order].ravel()
    x, order = _stage(build, "decoder.stage1", x, children, (height, width), swin.heads[0], swin.window, swin.decoder_depths[1])
    x = build.rows("feature_map", x, _from_to(order, np.arange(len(order))))
    x = build.cast("feature", x, np.float32) if precision == "fp16" else x
    build.reshape("features", build.layer_norm("feature_grid.norm", x), (height, width, dims[0]))
    _skip_logits(build, x, grid)
    return build.model("decoder", networks(model.config)["decoder"], model.model_id)


def _not_blank(build: OnnxBuilder, patches_HW: tuple[int, int]) -> str:
    """1 where a token cell or one beside it holds a point, else 0, int32: a patch that holds none is the embedding's bias, bit for bit."""
    build.dtype = np.dtype(np.float32)
    apart = build.node("Sub", "blank/apart", ["patches", build.constant("blank/patch", build.tensors["patch_embedding.bias"])])
    axes = build.constant("blank/axes", np.array([2], dtype=np.int64))
    largest = build.node("ReduceMax", "blank/largest", [build.node("Abs", "blank/distance", [apart]), axes], keepdims=0)
    around = build.node("MaxPool", "blank/around", [build.reshape("blank/image", largest, (1, 1, *patches_HW))], kernel_shape=[6, 6], strides=[2, 2],
                        pads=[2, 2, 2, 2])
    held = build.node("Greater", "blank/held", [around, build.constant("blank/nothing", np.zeros((), dtype=np.float32))])
    return build.cast("blank/factor", build.reshape("blank/map", held, (patches_HW[0] // 2, patches_HW[1] // 2)), np.int32)


def _skip_logits(build: OnnxBuilder, x: str, grid: Grid) -> None:
    """One linear map per voxel place of a patch cell, and the largest: the volume of one logit a voxel never exists."""
    rows, columns, layers = grid.mask_cells_YXZ
    height, width = grid.patches_HW
    normed = build.layer_norm("spatial_skip.norm", x)
    weight, bias = build.tensors["spatial_skip.linear.weight"], build.tensors["spatial_skip.linear.bias"]
    places = [build.linear(f"spatial_skip/{place}", normed, weight[place * layers:(place + 1) * layers].T, bias[place * layers:(place + 1) * layers])
              for place in range(len(bias) // layers)]
    largest = build.node("Max", "spatial_skip/largest", places)
    tiled = build.reshape("spatial_skip/tiled", largest, (rows, height // rows, columns, width // columns, layers))
    axes = build.constant("spatial_skip/axes", np.array([1, 3], dtype=np.int64))
    build.node("ReduceMax", "skip_logits", [tiled, axes], keepdims=0)


def _stage(build: OnnxBuilder, name: str, x: str, order: IntOrder, shape_HW: tuple[int, int], heads: int, window: int,
           depth: int) -> tuple[str, IntOrder]:
    """Swin blocks; rows come in `order` (which cell of the map each row is) and leave in the order that is returned."""
    for number in range(depth):
        shift = (number % 2) * (window // 2) if min(shape_HW) > window else 0
        wanted = _window_order(*shape_HW, window, shift)
        x = build.rows(f"{name}.{number}/order", x, _from_to(order, wanted))
        x, order = _block(build, f"{name}.{number}", x, shape_HW, heads, window, shift), wanted
    return x, order


def _block(build: OnnxBuilder, name: str, x: str, shape_HW: tuple[int, int], heads: int, window: int, shift: int) -> str:
    """Window attention and MLP over rows (windows x cells of a window, dim)."""
    tensors, dim = build.tensors, len(build.tensors[f"{name}.norm1.weight"])
    places, count, head_dim = window * window, shape_HW[0] * shape_HW[1], dim // heads
    windows = count // places
    normed = build.layer_norm(f"{name}.norm1", x)

    def part(which: int, label: str, axes: tuple[int, ...], scale: float = 1.0) -> str:
        chosen = slice(which * dim, (which + 1) * dim)
        flat = build.linear(f"{name}.{label}", normed, tensors[f"{name}.qkv.weight"][chosen].T * scale, tensors[f"{name}.qkv.bias"][chosen] * scale)
        return build.node("Transpose", f"{name}.{label}/heads", [build.reshape(f"{name}.{label}/split", flat, (windows, places, heads, head_dim))],
                          perm=axes)

    query, key, value = part(0, "query", (0, 2, 1, 3), head_dim**-0.5), part(1, "key", (0, 2, 3, 1)), part(2, "value", (0, 2, 1, 3))
    scores = build.node("MatMul", f"{name}.scores", [query, key])
    scores = build.node("Add", f"{name}.scores/biased", [scores, _attention_bias(build, name, shape_HW, window, shift)])
    attended = build.node("MatMul", f"{name}.attended", [build.node("Softmax", f"{name}.attention", [scores], axis=-1), value])
    merged = build.reshape(f"{name}.merged", build.node("Transpose", f"{name}.attended/cells", [attended], perm=(0, 2, 1, 3)), (count, dim))
    x = build.node("Add", f"{name}.after_attention", [
        x, build.linear(f"{name}.projection", merged, tensors[f"{name}.projection.weight"].T, tensors[f"{name}.projection.bias"])])
    hidden = build.linear(f"{name}.mlp.0", build.layer_norm(f"{name}.norm2", x), tensors[f"{name}.mlp.0.weight"].T, tensors[f"{name}.mlp.0.bias"])
    hidden = build.node("Gelu", f"{name}.mlp.1", [hidden])
    return build.node("Add", f"{name}.out", [
        x, build.linear(f"{name}.mlp.2", hidden, tensors[f"{name}.mlp.2.weight"].T, tensors[f"{name}.mlp.2.bias"])])


def _attention_bias(build: OnnxBuilder, name: str, shape_HW: tuple[int, int], window: int, shift: int) -> str:
    """Relative bias and shift mask in one constant.

    Only four kinds of windows differ (inner, last column, last row, corner): the constant holds these, and a Gather with a
    constant index, which every runtime folds away, hands each window its own. In full it would be 134 MB at paper size.
    """
    heads, places = build.tensors[f"{name}.relative_bias"].shape[1], window * window
    bias = attention_bias(build.tensors[f"{name}.relative_bias"], window, shift > 0).reshape(-1, heads, places, places)
    if not shift:
        return build.constant(f"{name}.bias", bias)
    rows, columns = shape_HW[0] // window, shape_HW[1] // window
    kind = 2 * (np.arange(rows) == rows - 1)[:, None] + (np.arange(columns) == columns - 1)
    kinds = build.constant(f"{name}.bias/kinds", bias)
    return build.node("Gather", f"{name}.bias", [kinds, build.constant(f"{name}.bias/kind", kind.ravel().astype(np.int32))], axis=0)


def _positions(height: int, width: int, dim: int) -> tuple[Array, Array]:
    """Sine-cosine positions of rows, (H, 1, dim), and of columns, (1, W, dim); each fills half of the channels."""
    whole = sincos_positions(height, width, dim)
    in_rows, in_columns = whole[:, :1].copy(), whole[:1].copy()
    in_rows[..., dim // 2:], in_columns[..., :dim // 2] = 0, 0
    return in_rows, in_columns


def _window_order(height: int, width: int, window: int, shift: int) -> IntOrder:
    """Cells of the map, row-major numbers, window by window after a roll by the shift."""
    cells = np.roll(np.arange(height * width).reshape(height, width), (-shift, -shift), axis=(0, 1))
    return np.ascontiguousarray(cells.reshape(height // window, window, width // window, window).swapaxes(1, 2)).ravel()


def _patch_order(height: int, width: int) -> IntOrder:
    """Cells of the map, 2 x 2 by 2 x 2: the four children of each token."""
    return np.ascontiguousarray(np.arange(height * width).reshape(height // 2, 2, width // 2, 2).swapaxes(1, 2)).ravel()


def _from_to(have: IntOrder, want: IntOrder) -> IntOrder:
    """Which row of `have` each row of `want` is."""
    place = np.empty_like(have)
    place[have] = np.arange(len(have))
    return place[want]
