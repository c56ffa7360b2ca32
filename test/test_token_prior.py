# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The token prior: the same whole numbers as a plain twin, no file but its own, and streams as short as it says."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import prior_reference
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tiny_prior import MODEL_ID, tiny_prior_arrays, write_tiny_prior

from copilot4d_core.config import preset
from copilot4d_core.data.simulator import simulate_drive
from copilot4d_core.deploy import rans
from copilot4d_core.deploy.export import export
from copilot4d_core.deploy.exported_model import read_export
from copilot4d_core.deploy.open_runner import PACKAGED_WEIGHTS, open_runner
from copilot4d_core.deploy.prior_file import PriorArrays, PriorFile, read_prior, write_prior
from copilot4d_core.deploy.token_order import nearest, number_of_passes, passes
from copilot4d_core.deploy.token_prior import WEIGHTS, TokenPrior, load_prior, prior_of, prior_path
from copilot4d_core.model_file import random_model, read_model, write_tensors
from copilot4d_core.tensor_file import CHECKSUM

Change = Callable[[dict[str, np.ndarray]], object]


def grid(seed: int, rows: int = 16, columns: int = 16, codes: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, codes, (rows, columns), dtype=np.uint16)


class TestRans:
    @given(st.integers(1, 40), st.integers(0, 300), st.integers(0, 2**32 - 1))
    @settings(max_examples=60, deadline=None)
    def test_symbols_come_back_in_as_many_bits_as_they_are_worth(self, symbols: int, choices: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        cuts = np.sort(rng.choice(np.arange(1, rans.TOTAL), (choices, symbols - 1)) if symbols > 1 else np.zeros((choices, 0), int), axis=1)
        bounds = np.hstack([np.zeros((choices, 1), int), cuts, np.full((choices, 1), rans.TOTAL)]).astype(np.int32)
        shares = np.diff(bounds, axis=1)
        chosen = shares.argmax(axis=1) if seed % 2 else np.array([rng.choice(np.flatnonzero(row)) for row in shares], dtype=int)
        row = np.arange(choices)
        data = rans.encode(bounds[row, chosen].astype(np.int64), shares[row, chosen].astype(np.int64))
        assert len(data) <= -np.log2(shares[row, chosen] / rans.TOTAL).sum() / 8 * 1.001 + 5
        decoder = rans.Decoder(data)
        assert np.array_equal(decoder.take(bounds), chosen)
        decoder.finish()

    def test_by_hand(self) -> None:
        # From 2^24: no word is due below 32768 * 2^24, so 2^24 // 32768 * 65536 + 0 + 16384 = 2^25 + 16384.
        assert rans.encode(np.array([16384]), np.array([32768])) == (2**25 + 16384).to_bytes(5, "little")
        # A share of 1: at 1 * 2^24 a word (0) is due, 2^8 is left, then 2^8 // 1 * 65536 + 0 + 7.
        assert rans.encode(np.array([7]), np.array([1])) == (2**24 + 7).to_bytes(5, "little") + bytes(2)
        assert rans.encode(np.array([], dtype=int), np.array([], dtype=int)) == (2**24).to_bytes(5, "little")


class TestOrder:
    @pytest.mark.parametrize(("rows", "columns"), [(16, 16), (64, 64), (15, 20), (3, 1)])
    def test_every_cell_comes_once_and_after_its_neighbours(self, rows: int, columns: int) -> None:
        done = {rows * columns}
        for one in passes(rows, columns):
            assert {int(near) for near in one.neighbours.reshape(-1)} <= done
            assert not done & set(one.cells.tolist())
            done |= set(one.cells.tolist())
        assert len(done) == rows * columns + 1

    def test_most_cells_have_neighbours_on_all_sides(self) -> None:
        last = {tuple(step) for step in nearest(number_of_passes() - 1).tolist()}
        assert {(0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1)} <= last and len(last) == 16
        assert nearest(0).shape == (0, 2)

    def test_places_are_the_same_on_both_sides_of_the_middle(self) -> None:
        place = np.zeros(256, dtype=int)
        for one in passes(16, 16):
            place[one.cells] = one.places
        place = place.reshape(16, 16)
        assert np.array_equal(place, place[::-1]) and np.array_equal(place, place[:, ::-1])
        assert (place[8, 8], place[8, 15], place[15, 8], place[0, 0]) == (0, 7, 56, 63)


class TestProbabilities:
    def test_weights_by_hand(self) -> None:
        assert [WEIGHTS[gap] for gap in (0, 8, 16, 32, 256, 257)] == [65536, 46340, 32768, 16384, 1, 0]
        assert WEIGHTS.tolist() == prior_reference.WEIGHTS

    @pytest.mark.parametrize(("seed", "rows", "columns"), [(0, 16, 16), (1, 16, 16), (2, 9, 11)])
    def test_shares_are_those_of_the_plain_twin(self, seed: int, rows: int, columns: int) -> None:
        arrays, tokens = tiny_prior_arrays(seed=seed), grid(seed, rows, columns)
        first, share = TokenPrior(PriorFile(arrays, MODEL_ID, {}, "00" * 32)).intervals(tokens)
        assert list(zip(first.tolist(), share.tolist(), strict=True)) == prior_reference.intervals(arrays, tokens)
        assert len(np.unique(share)) > 50

    @given(st.integers(0, 2**32 - 1), st.sampled_from([(16, 16), (8, 24), (15, 15)]))
    @settings(max_examples=25, deadline=None)
    def test_grids_come_back(self, seed: int, shape: tuple[int, int]) -> None:
        prior, tokens = TokenPrior(PriorFile(tiny_prior_arrays(seed=seed % 5), MODEL_ID, {}, "00" * 32)), grid(seed, *shape)
        data = prior.encode(tokens)
        back = prior.decode(data, *shape)
        assert back.dtype == np.uint16 and np.array_equal(back, tokens)
        bits = -np.log2(prior.intervals(tokens)[1] / 65536).sum()
        assert bits / 8 <= len(data) <= bits / 8 * 1.001 + 5

    def test_the_smallest_scale_of_logits_gives_no_share_to_codes_that_a_class_lacks(self) -> None:
        arrays = tiny_prior_arrays()._replace(logit_scale=np.array([256], dtype=np.int32))
        tokens = grid(4)
        first, share = TokenPrior(PriorFile(arrays, MODEL_ID, {}, "00" * 32)).intervals(tokens)
        assert list(zip(first.tolist(), share.tolist(), strict=True)) == prior_reference.intervals(arrays, tokens)

    def test_a_prior_of_one_kind_of_code_codes_every_code(self) -> None:
        arrays = tiny_prior_arrays()
        arrays = arrays._replace(code_bias=np.where(np.arange(64) == 0, 2**22, 0).astype(np.int32))
        prior = TokenPrior(PriorFile(arrays, MODEL_ID, {}, "00" * 32))
        tokens = grid(3)
        assert np.array_equal(prior.decode(prior.encode(tokens), 16, 16), tokens)


class TestFile:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "tiny.prior.safetensors"
        write_tiny_prior(path)
        return path

    def change(self, path: Path, change: Change) -> None:
        """Write the file again with other arrays, without a checksum."""
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, {key: value for key, value in read_metadata(path).items() if key != CHECKSUM})

    def test_what_is_written_comes_back(self, path: Path) -> None:
        file = read_prior(path)
        for name, array in tiny_prior_arrays()._asdict().items():
            assert np.array_equal(getattr(file.arrays, name), array) and getattr(file.arrays, name).dtype == array.dtype
        assert (file.model_id, file.provenance) == (MODEL_ID, {"made": "by hand"})
        assert load_prior(path, MODEL_ID).key.hex() == file.sha256[:16]

    @pytest.mark.parametrize(("change", "message"), [
        (lambda t: t.pop("inputs"), "expected a model id and the arrays code_order"),
        (lambda t: t.update(more=np.zeros(1, dtype=np.int8)), "and the arrays code_order"),
        (lambda t: t.update(embedding=t["embedding"].astype(np.int16)), r"embedding int8 of shape \(65, 3\), got int16"),
        (lambda t: t.update(inputs=t["inputs"][:3]), r"inputs int8 of shape \(12, 16, 3, 5\), got int8 of shape \(3, 16, 3, 5\)"),
        (lambda t: t.update(embedding=np.zeros((), dtype=np.int8)), "embedding"),
        (lambda t: t.update({name: array[:0] for name, array in t.items()}), "code_order"),
        (lambda t: t["code_order"].__setitem__(0, t["code_order"][1]), "every code once"),
        (lambda t: t["class_sizes"].__setitem__(slice(None), [0, 3, 16, 45]), "every code once"),
        (lambda t: t["class_sizes"].__setitem__(0, 2), "every code once"),
        (lambda t: t["hidden_scale"].__setitem__((0, 0), -1), "exact"),
        (lambda t: t["hidden_scale"].__setitem__((0, 0), 2**24), "exact"),
        (lambda t: t["logit_scale"].__setitem__(0, 255), "exact"),
        (lambda t: t["code_bias"].__setitem__(0, 2**24), "exact"),
        (lambda t: t.update(class_bias=np.full(4, -2**31, dtype=np.int32)), "exact"),
    ])
    def test_arrays_that_are_no_prior_are_refused_by_name(self, path: Path, change: Change, message: str) -> None:
        self.change(path, change)
        with pytest.raises(ValueError, match=message) as refusal:
            read_prior(path)
        assert "tiny.prior.safetensors" in str(refusal.value)

    def test_sums_that_float32_cannot_hold_are_not_written(self, tmp_path: Path) -> None:
        arrays = tiny_prior_arrays()
        wide = arrays._replace(inputs=np.full((12, 16, 3, 5), 127, dtype=np.int8), embedding=np.full((65, 3), 127, dtype=np.int8))
        write_prior(tmp_path / "a.prior.safetensors", wide, MODEL_ID, {})  # 16 * 3 * 127 * 127 = 774,192
        over = PriorArrays(*(np.full((12, 16, 70, 5), 127, dtype=np.int8) if name == "inputs" else
                             np.full((65, 70), 127, dtype=np.int8) if name == "embedding" else array
                             for name, array in arrays._asdict().items()))  # 16 * 70 * 127 * 127 = 18,064,480
        with pytest.raises(ValueError, match="and sums, all below 16777216"):
            write_prior(tmp_path / "b.prior.safetensors", over, MODEL_ID, {})
        assert not (tmp_path / "b.prior.safetensors").exists()

    def test_truncated_and_altered_files_are_refused_or_the_same_prior(self, path: Path) -> None:
        whole, good = path.read_bytes(), read_prior(path)
        positions = [*range(0, 1600), *range(1600, len(whole), 211)]
        for position in positions:
            for data in (whole[:position], whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1:]):
                path.write_bytes(data)
                try:
                    file = read_prior(path)
                except ValueError as error:
                    assert "tiny.prior.safetensors" in str(error)
                else:
                    assert file.sha256 != good.sha256 and len(data) == len(whole), "the name of the checksum's entry"
                    assert file.model_id == good.model_id and all(map(np.array_equal, file.arrays, good.arrays))

    @pytest.mark.parametrize("content", [b"", b"no prior", bytes(100), b"\xff" * 100])
    def test_foreign_files_are_refused_by_name(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"tiny\.prior\.safetensors: expected a prior"):
            read_prior(path)

    def test_weights_are_no_prior(self) -> None:
        with pytest.raises(ValueError, match="expected format copilot4d-prior version 1, got 'copilot4d-weights'"):
            read_prior(PACKAGED_WEIGHTS)


def read_metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return dict(file.metadata())


class TestWhereItLies:
    @pytest.fixture
    def weights(self, tmp_path: Path) -> Path:
        model = random_model(preset("tiny"))
        write_tensors(tmp_path / "w.safetensors", model.tensors, model.config)
        return tmp_path / "w.safetensors"

    def test_none_beside_these_weights(self, weights: Path) -> None:
        assert prior_of(weights) is None

    def test_beside_the_weights(self, weights: Path) -> None:
        model_id = read_model(weights).model_id
        prior = write_tiny_prior(weights.with_name("w.prior.safetensors"), model_id)
        found = prior_of(weights)
        assert found is not None and (found.sha256, found.model_id) == (prior.sha256, model_id)

    def test_that_of_another_model_is_refused_by_both_names(self, weights: Path) -> None:
        write_tiny_prior(weights.with_name("w.prior.safetensors"))
        with pytest.raises(ValueError, match=rf"w\.prior\.safetensors: .* {read_model(weights).model_id}, got that of model {MODEL_ID}"):
            prior_of(weights)

    def test_an_export_takes_it_along(self, weights: Path, tmp_path: Path) -> None:
        model = read_model(weights)
        prior = write_tiny_prior(prior_path(weights), model.model_id)
        export(model, tmp_path / "robot", prior=prior_path(weights))
        read_export(tmp_path / "robot")
        found = prior_of(tmp_path / "robot")
        assert found is not None and found.sha256 == prior.sha256
        export(model, tmp_path / "robot")
        assert prior_of(tmp_path / "robot") is None

    def test_an_export_refuses_that_of_another_model(self, weights: Path, tmp_path: Path) -> None:
        write_tiny_prior(prior_path(weights))
        with pytest.raises(ValueError, match=f"got that of model {MODEL_ID}"):
            export(read_model(weights), tmp_path / "robot", prior=prior_path(weights))
        assert not (tmp_path / "robot").exists()


@pytest.fixture(scope="module")
def prior() -> TokenPrior:
    """That of the packaged weights."""
    prior = prior_of(PACKAGED_WEIGHTS)
    assert prior is not None
    return prior


class TestPackaged:
    def test_it_is_that_of_the_packaged_weights_and_small(self, prior: TokenPrior) -> None:
        assert (prior.model_id, prior.codebook_size) == (read_model(PACKAGED_WEIGHTS).model_id, 1024)
        assert prior_path(PACKAGED_WEIGHTS).stat().st_size < 700_000

    def test_a_simulated_scan_takes_half_of_the_fixed_rate(self, prior: TokenPrior) -> None:
        with open_runner() as runner:
            tokens = runner.encode(next(iter(simulate_drive(77, 1, "hdl64"))).points_m)
        data = prior.encode(tokens)
        bits = -np.log2(prior.intervals(tokens)[1] / 65536).sum()
        assert bits <= 8 * len(data) <= 1.01 * bits
        assert len(data) < 5120 / 2
        assert np.array_equal(prior.decode(data, 64, 64), tokens)

    def test_a_grid_is_coded_and_decoded_between_two_scans_of_10_hz(self, prior: TokenPrior) -> None:
        tokens = np.repeat(np.repeat(grid(0, 16, 16, 1024), 4, axis=0), 4, axis=1)
        data, times_ms = prior.encode(tokens), np.zeros((20, 2))
        for row in times_ms:
            start = time.perf_counter()
            prior.encode(tokens)
            middle = time.perf_counter()
            prior.decode(data, 64, 64)
            row[:] = 1e3 * (middle - start), 1e3 * (time.perf_counter() - middle)
        print(f"64 x 64 tokens: encode {np.median(times_ms[:, 0]):.1f} ms, decode {np.median(times_ms[:, 1]):.1f} ms, medians of {len(times_ms)}")
        assert (times_ms.min(axis=0) < 100).all()

    def test_the_kernels_of_an_older_processor_give_the_same_bytes(self, prior: TokenPrior) -> None:
        code = ("import numpy as np\nfrom copilot4d_core.deploy.token_prior import prior_of\n"
                "from copilot4d_core.deploy.open_runner import PACKAGED_WEIGHTS\n"
                "tokens = np.random.default_rng(0).integers(0, 1024, (64, 64), dtype=np.uint16)\n"
                "print(prior_of(PACKAGED_WEIGHTS).encode(tokens).hex())")
        # OpenBLAS then takes kernels that neither fuse nor order their sums as this processor's.
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True,
                              cwd=Path(__file__).parent.parent, env={**os.environ, "OPENBLAS_CORETYPE": "Nehalem"})
        assert bytes.fromhex(done.stdout) == prior.encode(grid(0, 64, 64, 1024))

    def test_random_tokens_come_back_too(self, prior: TokenPrior) -> None:
        tokens = grid(0, 64, 64, 1024)
        assert np.array_equal(prior.decode(prior.encode(tokens), 64, 64), tokens)

    def test_it_needs_no_torch(self) -> None:
        code = ("import sys\nfrom copilot4d_core.deploy.token_prior import prior_of\nfrom copilot4d_core.deploy.open_runner import PACKAGED_WEIGHTS\n"
                "prior_of(PACKAGED_WEIGHTS)\nprint([m for m in ('torch', 'scipy', 'onnxruntime', 'warp') if m in sys.modules])")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True,
                              cwd=Path(__file__).parent.parent)
        assert done.stdout == "[]\n"
