# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Token grids as bytes: what goes in comes out, and every other byte is refused by name."""

from __future__ import annotations

import dataclasses
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_prior import write_tiny_prior

from copilot4d_core.config import Config, preset
from copilot4d_core.deploy.token_prior import TokenPrior
from copilot4d_core.deploy.token_stream import (
    PACKED,
    WITH_PRIOR,
    StreamHeader,
    read_header,
    stream_format,
    tokens_from_bytes,
    tokens_to_bytes,
)

CONFIG = preset("tiny")
"""16 x 16 tokens, 64 codes."""
MODEL = "tiny-0123456789ab"
TOKENS = np.arange(256, dtype=np.uint16).reshape(16, 16) % 64


def with_codes(size: int) -> Config:
    return dataclasses.replace(CONFIG, quantizer=dataclasses.replace(CONFIG.quantizer, codebook_size=size))


def refusal(data: bytes, model_id: str = MODEL, config: Config = CONFIG, prior: TokenPrior | None = None) -> str:
    with pytest.raises(ValueError, match=r"^token stream: expected") as error:
        tokens_from_bytes(data, model_id, config, prior)
    return str(error.value)


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> TokenPrior:
    return write_tiny_prior(tmp_path_factory.mktemp("prior") / "tiny.prior.safetensors", MODEL)


class TestPacked:
    def test_header_and_body_by_hand(self) -> None:
        tokens = np.zeros((16, 16), dtype=np.uint16)
        tokens[0, :4] = 0b000001, 0b100000, 0b111111, 0b000010
        data = tokens_to_bytes(tokens, "m-1", CONFIG)
        head = b"C4DT" b"\x01" b"\x00" b"\x10\x00" b"\x10\x00" b"\x40\x00\x00\x00" b"\0\0\0\0\0\0\0\0" b"\x03" b"m-1"
        crc = zlib.crc32(head + b"\x01\0" b"\x20\0" b"\x3f\0" b"\x02\0" + bytes(2 * 252))
        assert data == head + struct.pack("<I", crc) + bytes([0b00000110, 0b00001111, 0b11000010]) + bytes(189)

    def test_header_is_read_without_the_body(self) -> None:
        data = tokens_to_bytes(TOKENS, MODEL, CONFIG)
        assert read_header(data[:44]) == StreamHeader(PACKED, 16, 16, 64, bytes(8), MODEL)

    @given(st.integers(2, 65535), st.integers(0, 2**32 - 1))
    @settings(max_examples=60, deadline=None)
    def test_what_goes_in_comes_out_in_the_fewest_bits(self, size: int, seed: int) -> None:
        config = with_codes(size)
        tokens = np.random.default_rng(seed).integers(0, size, (16, 16), dtype=np.uint16)
        data = tokens_to_bytes(tokens, MODEL, config)
        bits = next(b for b in range(17) if 2**b >= size)
        assert len(data) == 44 + 256 * bits // 8
        back = tokens_from_bytes(data, MODEL, config)
        assert back.dtype == np.uint16 and np.array_equal(back, tokens)

    def test_format_text(self) -> None:
        assert stream_format(MODEL) == "copilot4d; v1; tiny-0123456789ab"


class TestWithPrior:
    def test_header_and_body(self, prior: TokenPrior) -> None:
        data = tokens_to_bytes(TOKENS, MODEL, CONFIG, prior)
        assert read_header(data) == StreamHeader(WITH_PRIOR, 16, 16, 64, bytes.fromhex(prior.sha256)[:8], MODEL)
        assert data[44:] == prior.encode(TOKENS)

    @given(st.integers(0, 2**32 - 1))
    @settings(max_examples=25, deadline=None)
    def test_what_goes_in_comes_out(self, prior: TokenPrior, seed: int) -> None:
        tokens = np.random.default_rng(seed).integers(0, 64, (16, 16), dtype=np.uint16)
        back = tokens_from_bytes(tokens_to_bytes(tokens, MODEL, CONFIG, prior), MODEL, CONFIG, prior)
        assert back.dtype == np.uint16 and np.array_equal(back, tokens)

    def test_packed_bytes_are_read_by_who_has_a_prior(self, prior: TokenPrior) -> None:
        assert np.array_equal(tokens_from_bytes(tokens_to_bytes(TOKENS, MODEL, CONFIG), MODEL, CONFIG, prior), TOKENS)

    def test_a_missing_or_another_prior_is_named(self, prior: TokenPrior, tmp_path: Path) -> None:
        data, other = tokens_to_bytes(TOKENS, MODEL, CONFIG, prior), write_tiny_prior(tmp_path / "o.prior.safetensors", MODEL, seed=1)
        key = prior.sha256[:16]
        assert f"coded with, {key}, there is none; put the sender's prior file beside the weights of {MODEL}" in refusal(data)
        assert f"coded with, {key}, this is {other.sha256[:16]}" in refusal(data, prior=other)

    def test_the_prior_of_another_model_is_named(self, prior: TokenPrior, tmp_path: Path) -> None:
        foreign = write_tiny_prior(tmp_path / "f.prior.safetensors", "tiny-ffffffffffff")
        message = f"token prior: expected that of model {MODEL} with 64 codes, got that of model tiny-ffffffffffff"
        with pytest.raises(ValueError, match=message):
            tokens_to_bytes(TOKENS, MODEL, CONFIG, foreign)
        with pytest.raises(ValueError, match=message):
            tokens_from_bytes(tokens_to_bytes(TOKENS, MODEL, CONFIG), MODEL, CONFIG, foreign)
        with pytest.raises(ValueError, match="with 32 codes, got that of model tiny-0123456789ab with 64"):
            tokens_to_bytes(TOKENS % 32, MODEL, with_codes(32), prior)


class TestRefusals:
    @pytest.fixture(params=["packed", "with prior"])
    def prior_or_none(self, prior: TokenPrior, request: pytest.FixtureRequest) -> TokenPrior | None:
        return prior if request.param == "with prior" else None

    def test_every_truncation(self, prior_or_none: TokenPrior | None) -> None:
        data = tokens_to_bytes(TOKENS, MODEL, CONFIG, prior_or_none)
        for length in range(len(data)):
            refusal(data[:length], prior=prior_or_none)

    def test_every_altered_byte(self, prior_or_none: TokenPrior | None) -> None:
        data = tokens_to_bytes(TOKENS, MODEL, CONFIG, prior_or_none)
        for position in range(len(data)):
            for change in (0x01, 0x80, 0xFF):
                refusal(data[:position] + bytes([data[position] ^ change]) + data[position + 1:], prior=prior_or_none)

    @given(st.binary(min_size=5, max_size=700))
    @settings(max_examples=60, deadline=None)
    def test_any_body(self, prior: TokenPrior, body: bytes) -> None:
        refusal(tokens_to_bytes(TOKENS, MODEL, CONFIG, prior)[:44] + body, prior=prior)

    def test_words_behind_the_last_token(self, prior: TokenPrior) -> None:
        data = tokens_to_bytes(TOKENS, MODEL, CONFIG, prior)
        assert "whole words" in refusal(data + b"\0", prior=prior)
        assert "their end after the last symbol, got 1 words more" in refusal(data + b"\0\0", prior=prior)

    @given(st.binary(max_size=300))
    @settings(deadline=None)
    def test_any_bytes_after_the_magic(self, data: bytes) -> None:
        refusal(b"C4DT" + data)

    def test_added_bytes(self) -> None:
        assert "got 193" in refusal(tokens_to_bytes(TOKENS, MODEL, CONFIG) + b"\0")

    def test_set_bits_behind_the_last_token(self) -> None:
        region = dataclasses.replace(CONFIG.grid, x_min_m=-9.375, x_max_m=9.375, y_min_m=-9.375, y_max_m=9.375)
        odd = dataclasses.replace(with_codes(2), grid=region, swin=dataclasses.replace(CONFIG.swin, window=5))
        data = tokens_to_bytes(TOKENS[:15, :15] % 2, MODEL, odd)
        assert len(data) == 44 + 29, "225 bits"
        assert np.array_equal(tokens_from_bytes(data, MODEL, odd), TOKENS[:15, :15] % 2)
        assert "zeros after the last token" in refusal(data[:-1] + bytes([data[-1] | 1]), config=odd)

    def test_names(self) -> None:
        data = tokens_to_bytes(TOKENS, MODEL, CONFIG)
        assert f"model mini-ffffffffffff, got tokens of model {MODEL}" in refusal(data, "mini-ffffffffffff")
        assert "version 1, got 2" in refusal(data[:4] + b"\x02" + data[5:])
        assert "b'C4DT', got b'PNG '" in refusal(b"PNG " + data[4:])
        assert "coding 0 or 1" in refusal(data[:5] + b"\x07" + data[6:])
        assert "64 x 64 tokens of 1024 codes (model tiny-0123456789ab), got 16 x 16 of 64" in refusal(data, config=preset("mini"))

    def test_absurd_sizes_are_refused_before_memory_is_taken(self) -> None:
        data = tokens_to_bytes(TOKENS, MODEL, CONFIG)
        assert "got 65535 x 65535" in refusal(data[:6] + b"\xff" * 4 + data[10:])
        assert "of 4294967295" in refusal(data[:10] + b"\xff" * 4 + data[14:])

    @pytest.mark.parametrize(("tokens", "message"), [
        (np.where(TOKENS == 5, 65535, TOKENS).astype(np.uint16), "4 cells of 65535"),
        (TOKENS[:8], r"shape \(16, 16\)"),
        (TOKENS + np.uint16(64), "below 64"),
    ])
    def test_grids_that_no_model_makes(self, tokens: npt.NDArray[np.uint16], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            tokens_to_bytes(tokens, MODEL, CONFIG)

    @pytest.mark.parametrize("model_id", ["", "m" * 256, "mini-ü"])
    def test_model_ids_that_do_not_fit(self, model_id: str) -> None:
        with pytest.raises(ValueError, match="1 to 255 ASCII characters"):
            tokens_to_bytes(TOKENS, model_id, CONFIG)
