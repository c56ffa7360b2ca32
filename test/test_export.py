# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Exports: the networks are torch's, the folder says what it holds, and a damaged one is refused."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tiny_kinds import KINDS, tiny_with

from copilot4d_core.config import Config, preset
from copilot4d_core.deploy import export as export_module
from copilot4d_core.deploy.export import TENSORRT_OPERATORS, export
from copilot4d_core.deploy.exported_model import export_model, open_model, read_export
from copilot4d_core.deploy.manifest import FILES, networks, read_manifest
from copilot4d_core.deploy.onnx_networks import encoder_network
from copilot4d_core.deploy.onnx_runner import open_session
from copilot4d_core.deploy.open_runner import PACKAGED_WEIGHTS
from copilot4d_core.deploy.torch_reference import TorchReference
from copilot4d_core.model_file import Model, random_model, read_model, tensor_shapes
from copilot4d_core.tokenizer.tokenizer import Tokenizer

PRESETS = ("tiny", "mini", "paper")
LARGEST_INTERMEDIATE_BYTES = 200e6
"""At paper size the scores of one attention layer take 134 MB; a dense 512 x 512 x 64 x 16 grid would take 1,074 MB."""


def noisy_model(settings: str | Config) -> Model:
    """Random weights whose norms and biases are not 1 and 0 either, so that a forgotten one shows."""
    model = random_model(preset(settings) if isinstance(settings, str) else settings)
    generator = np.random.default_rng(1)
    tensors = {key: (value + 0.1 * generator.standard_normal(value.shape)).astype(np.float32) for key, value in model.tensors.items()}
    return model._replace(tensors=tensors)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of random tiny weights."""
    out = tmp_path_factory.mktemp("export") / "tiny"
    export(noisy_model("tiny"), out)
    return out


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.mark.parametrize("config", [*map(preset, PRESETS), *map(tiny_with, KINDS)], ids=[*PRESETS, *KINDS])
def test_shapes_are_those_of_the_torch_model(config: Config) -> None:
    state = Tokenizer(config).state_dict()
    shapes = tensor_shapes(config)
    assert shapes == {key: tuple(state[key].shape) for key in shapes}
    assert all(key.startswith("quantizer.") for key in set(state) - set(shapes)), "only the quantiser's training state is left out"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_networks_equal_torch(precision: str, kind: str) -> None:
    model = noisy_model(tiny_with(kind))
    exported, reference = export_model(model, precision), TorchReference(model, half=precision == "fp16")
    generator = np.random.default_rng(0)
    patches = generator.normal(size=(32, 32, 16)).astype(np.float32)
    (tokens,) = open_session(exported.encoder).run(["tokens"], {"patches": patches})
    expected, gap = reference.tokens(patches)
    assert len(np.unique(expected)) > 10
    allowed = 1e-4 if precision == "fp32" else 0.05
    assert (gap[tokens != expected] <= allowed).all()
    assert (tokens == expected).mean() > 0.98
    features, skip = open_session(exported.decoder).run(["features", "skip_logits"], {"tokens": expected.astype(np.int32)})
    wanted = TorchReference(model).decoded(expected)
    tolerance = 1e-4 if precision == "fp32" else 0.1
    assert np.abs(features - wanted[0]).max() < tolerance * np.abs(wanted[0]).max()
    assert np.abs(skip - wanted[1]).max() < tolerance * np.abs(wanted[1]).max()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_quantiser_passes_the_check_of_its_export(kind: str, tmp_path: Path) -> None:
    check = export(noisy_model(tiny_with(kind)), tmp_path / kind)
    assert check.token_agreement > 0.999
    assert ("Round" in check.operators) == (kind == "fsq")


def test_same_weights_give_the_same_bytes() -> None:
    first, second = (export_model(noisy_model("tiny")) for _ in range(2))
    assert (first.encoder, first.decoder, first.codebook_sha256) == (second.encoder, second.decoder, second.codebook_sha256)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_graphs_are_static_without_float64_int64_at_the_boundary_or_large_intermediates(name: str, precision: str) -> None:
    exported = export_model(random_model(preset(name)), precision)
    for part, network in (("encoder", exported.encoder), ("decoder", exported.decoder)):
        graph = onnx.load_from_string(network)
        onnx.checker.check_model(graph, full_check=True)
        assert {node.op_type for node in graph.graph.node} <= TENSORRT_OPERATORS
        assert [entry.version for entry in graph.opset_import] == [20]
        spec = networks(preset(name))[part]
        kinds = {"float32": onnx.TensorProto.FLOAT, "int32": onnx.TensorProto.INT32}
        for side, wanted in ((graph.graph.input, spec.inputs), (graph.graph.output, spec.outputs)):
            types = [value.type.tensor_type for value in side]
            found = [(tuple(size.dim_value for size in kind.shape.dim), kind.elem_type) for kind in types]
            assert [value.name for value in side] == [tensor.name for tensor in wanted]
            assert found == [(tensor.shape, kinds[tensor.dtype]) for tensor in wanted]
        inferred = onnx.shape_inference.infer_shapes(graph, strict_mode=True, data_prop=True).graph.value_info
        assert len(inferred) > 100
        for value in inferred:
            kind, shape = value.type.tensor_type.elem_type, [size.dim_value for size in value.type.tensor_type.shape.dim]
            assert kind != onnx.TensorProto.DOUBLE
            assert all(shape), f"{value.name} has no static shape"
            assert 4 * math.prod(shape) <= LARGEST_INTERMEDIATE_BYTES, f"{value.name}: {shape}"
        norms = [node for node in graph.graph.node if node.op_type == "LayerNormalization"]
        # Two a block, and three more: encoder input, merging, pre-quantisation; upsampling, feature grid, skip branch.
        assert len(norms) == 2 * {"tiny": 4, "mini": 4, "paper": 8}[name] + 3


def test_fp16_keeps_the_scores_and_the_last_norms_in_float32() -> None:
    graph = onnx.load_from_string(encoder_network(noisy_model("tiny"), "fp16").SerializeToString()).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert kinds["scores/weight"] == kinds["scores/bias"] == kinds["pre_quantizer.0.weight"] == onnx.TensorProto.FLOAT
    assert kinds["encoder.norm.weight"] == onnx.TensorProto.FLOAT
    assert kinds["encoder.stage1.0.query/weight"] == kinds["encoder.stage2.1.mlp.2/weight"] == onnx.TensorProto.FLOAT16


def test_attention_bias_is_the_torch_block_s_with_mask_and_relative_bias_in_one() -> None:
    model = noisy_model("tiny")
    block = TorchReference(model).tokenizer.encoder.stage1[1]
    graph = onnx.load_from_string(encoder_network(model, "fp32").SerializeToString()).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    folded = constants["encoder.stage1.1.bias/kinds"][constants["encoder.stage1.1.bias/kind"]]
    with torch.no_grad():
        expected = block.attention_bias().numpy()
    assert np.abs(folded - expected).max() < 1e-5


def test_manifest_says_what_a_reader_needs(folder: Path) -> None:
    tree = json.loads((folder / "manifest.json").read_text())
    assert tree["networks"]["encoder"]["inputs"] == [
        {"name": "patches", "shape": [32, 32, 16], "dtype": "float32", "meaning": "patch map (y, x, channel) before its layer norm, no unit"}]
    assert tree["networks"]["encoder"]["outputs"][0]["dtype"] == "int32"
    assert (tree["model_id"], tree["precision"], tree["opset"], len(tree["codebook_sha256"])) == ("tiny-random", "fp32", 20, 64)
    assert tree["config"]["grid"]["x_max_m"] == 10.0
    assert sorted(tree["file_sha256"]) == sorted(FILES)
    assert read_manifest(folder).config == preset("tiny")


def test_a_folder_and_its_weights_open_as_the_same_model(tmp_path: Path) -> None:
    export(read_model(PACKAGED_WEIGHTS), tmp_path / "mini")
    from_folder, from_weights = open_model(tmp_path / "mini"), open_model(PACKAGED_WEIGHTS)
    assert (from_folder.encoder, from_folder.decoder, from_folder.model_id) == (from_weights.encoder, from_weights.decoder, from_weights.model_id)
    for part in ("pillars", "readout"):
        for mine, theirs in zip(getattr(from_folder.kernels, part), getattr(from_weights.kernels, part), strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("name", FILES)
def test_a_changed_or_missing_file_is_refused(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: expected the file that was exported"):
        read_export(copy)
    (copy / name).unlink()
    with pytest.raises(ValueError, match=f"{name}: expected this file of the export, there is none"):
        read_export(copy)


@pytest.mark.parametrize(("change", "message"), [
    (lambda tree: tree.update(format_version=2), "format copilot4d-export version 1, got 'copilot4d-export' version 2.*export the weights again"),
    (lambda tree: tree.pop("networks"), "'networks'"),
    (lambda tree: tree["networks"]["encoder"]["inputs"][0].update(shape=[1, 2, 3]), "not those of this version"),
    (lambda tree: tree["config"]["grid"].pop("x_max_m"), "x_max_m"),
    (lambda tree: tree["file_sha256"].pop("encoder.onnx"), "encoder.onnx"),
    (lambda tree: tree.update(precision="int4"), "precision"),
])
def test_a_manifest_of_another_version_is_refused(copy: Path, change: Callable[[dict[str, object]], object], message: str) -> None:
    tree = json.loads((copy / "manifest.json").read_text())
    del tree["manifest_sha256"]  # a manifest from before it had one
    change(tree)
    (copy / "manifest.json").write_text(json.dumps(tree))
    with pytest.raises(ValueError, match=message):
        read_export(copy)


def test_a_folder_without_a_manifest_or_with_junk_in_it_is_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "manifest.json").write_text("[1, 2")
    with pytest.raises(ValueError, match="expected JSON"):
        read_export(copy)
    with pytest.raises(ValueError, match="expected a folder of `copilot4d export`"):
        read_export(tmp_path)


def test_an_export_replaces_an_older_one_keeps_its_engines_and_nothing_else(copy: Path) -> None:
    (copy / "engines").mkdir()
    (copy / "engines" / "encoder.engine").write_bytes(b"built")
    old = (copy / "encoder.onnx").read_bytes()
    export(noisy_model("tiny"), copy, "fp16")
    assert (copy / "encoder.onnx").read_bytes() != old
    assert (copy / "engines" / "encoder.engine").read_bytes() == b"built"
    assert read_manifest(copy).precision == "fp16"
    assert sorted(path.name for path in copy.parent.iterdir()) == ["copy"]


def test_a_folder_that_is_no_export_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="expected a folder of `copilot4d export`"):
        export(noisy_model("tiny"), tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_an_export_that_does_not_agree_with_torch_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter is made to forget the last norm of the encoder."""
    model = noisy_model("tiny")
    wrong = model._replace(tensors=model.tensors | {"encoder.merge_norm.weight": np.ones_like(model.tensors["encoder.merge_norm.weight"])})
    whole = export_module.export_model
    monkeypatch.setattr(export_module, "export_model", lambda model, precision: whole(wrong, precision))
    with pytest.raises(ValueError, match="expected 99.9% of torch's tokens.*nothing was written"):
        export(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_unknown_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--precision: expected one of fp32, fp16, got 'int4'"):
        export(noisy_model("tiny"), tmp_path / "out", "int4")


def test_disk_full_during_the_export_leaves_the_old_one(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device", str(self))

    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        export(noisy_model("tiny"), copy, "fp16")
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
    assert sorted(path.name for path in copy.parent.iterdir()) == ["copy"]
