# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""A token grid as bytes that describe themselves: for a topic, a radio link or a file.

What goes in: (H, W) uint16 tokens, a model id and, where there is one, the model's prior. What comes out: the same, exactly.
Unusual: nothing is allocated before the header was held against the model, so bytes from anywhere may be given in.

All numbers are little-endian:

    bytes       content
    4           `C4DT`
    1           version of this format, 1
    1           coding of the body: 0 packed, 1 with a prior
    2, 2        rows, columns
    4           codes in the codebook
    8           first bytes of the prior's SHA-256; zeros when packed
    1, N        length of the model id, model id (ASCII)
    4           CRC-32 of all bytes above, followed by the tokens as uint16, row by row
    rest        body

A packed body holds every token in the fewest bits that count all codes, the highest bit first, row by row; the last byte is filled
with zeros. With a prior it holds the state and words of `rans.py`, in the order of `token_order.py`.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from copilot4d_core.config import Config
from copilot4d_core.deploy.runner import TokenArray
from copilot4d_core.deploy.token_file import INVALID_TOKEN, check_tokens
from copilot4d_core.deploy.token_prior import TokenPrior
from copilot4d_core.grid import Grid

MAGIC, VERSION = b"C4DT", 1
PACKED, WITH_PRIOR = 0, 1
FIXED = struct.Struct("<4sBBHHI8sB")
CRC = struct.Struct("<I")
NO_PRIOR = bytes(8)


class StreamHeader(NamedTuple):
    """What the bytes say about themselves."""

    coding: int
    """`PACKED` or `WITH_PRIOR`."""
    rows: int
    columns: int
    codebook_size: int
    prior_hash: bytes
    """First 8 bytes of the prior's SHA-256; zeros without one."""
    model_id: str

    def to_bytes(self) -> bytes:
        """The header up to its CRC."""
        name = self.model_id.encode("ascii")
        return FIXED.pack(MAGIC, VERSION, self.coding, self.rows, self.columns, self.codebook_size, self.prior_hash, len(name)) + name


def stream_format(model_id: str) -> str:
    """Text for the field `format` of a sensor_msgs/CompressedImage."""
    return f"copilot4d; v{VERSION}; {model_id}"


def tokens_to_bytes(tokens: TokenArray, model_id: str, config: Config, prior: TokenPrior | None = None) -> bytes:
    """Bytes of a token grid.

    Args:
        tokens: (H, W) uint16, every one a code: a grid with a cell of 65535 (not valid) is no model's output, no runner decodes it,
            and room for it would cost every grid bits.
        prior: of the model; None packs at a fixed rate.
    Raises:
        ValueError: tokens or a prior that do not fit the model, tokens that are not valid, or a model id that is not 1 to 255 ASCII
            characters.
    """
    check_tokens(tokens, config)
    if tokens.max() == INVALID_TOKEN:
        raise ValueError(f"tokens: expected a code in every cell, got {np.count_nonzero(tokens == INVALID_TOKEN)} cells of {INVALID_TOKEN} "
                         "(not valid); a stream holds whole grids only")
    if not (model_id.isascii() and 1 <= len(model_id) <= 255):
        raise ValueError(f"token stream: expected a model id of 1 to 255 ASCII characters, got {model_id!r}")
    size, (rows, columns) = config.quantizer.codebook_size, tokens.shape
    _check_prior(prior, model_id, size)
    coding, key = (PACKED, NO_PRIOR) if prior is None else (WITH_PRIOR, prior.key)
    head = StreamHeader(coding, rows, columns, size, key, model_id).to_bytes()
    body = _packed(tokens, size) if prior is None else prior.encode(tokens)
    return head + CRC.pack(_checksum(head, tokens)) + body


def tokens_from_bytes(data: bytes, model_id: str, config: Config, prior: TokenPrior | None = None) -> TokenArray:
    """The token grid in the bytes; (H, W) uint16.

    Args:
        data: what `tokens_to_bytes` gave.
        model_id: of the model that will decode the tokens.
        config: its settings.
        prior: of the model; packed bytes are read with or without one.
    Raises:
        ValueError: no token stream, another version, model, size or prior, or bytes that were altered, cut or added.
    """
    header = read_header(data)
    _check_model(header, model_id, config)
    _check_prior(prior, model_id, header.codebook_size)
    _check_key(header, prior)
    head = header.to_bytes()
    crc, body = CRC.unpack_from(data, len(head))[0], bytes(data[len(head) + CRC.size:])
    tokens = _unpacked(body, header) if prior is None or header.coding == PACKED else prior.decode(body, header.rows, header.columns)
    if _checksum(head, tokens) != crc:
        raise ValueError("token stream: expected the tokens of its CRC-32, got others; the bytes were altered on the way")
    return tokens


def read_header(data: bytes) -> StreamHeader:
    """What the bytes say about themselves; the body is not looked at.

    Raises:
        ValueError: no token stream, one of another version, or one that ends in its header.
    """
    if data[:len(MAGIC)] != MAGIC:
        raise ValueError(f"token stream: expected bytes that start with {MAGIC!r}, got {bytes(data[:len(MAGIC)])!r}")
    if len(data) > len(MAGIC) and data[len(MAGIC)] != VERSION:
        raise ValueError(f"token stream: expected version {VERSION}, got {data[len(MAGIC)]}; use the version of copilot4d that wrote it")
    if len(data) < FIXED.size or len(data) < FIXED.size + data[FIXED.size - 1] + CRC.size:
        raise ValueError(f"token stream: expected a whole header, got {len(data)} bytes; the rest is missing")
    _, _, coding, rows, columns, size, prior_hash, length = FIXED.unpack_from(data)
    name = bytes(data[FIXED.size:FIXED.size + length])
    if not name or not name.isascii() or coding not in (PACKED, WITH_PRIOR):
        raise ValueError(f"token stream: expected an ASCII model id and coding {PACKED} or {WITH_PRIOR}, got {name!r} and {coding}")
    return StreamHeader(coding, rows, columns, size, prior_hash, name.decode("ascii"))


def _check_model(header: StreamHeader, model_id: str, config: Config) -> None:
    if header.model_id != model_id:
        raise ValueError(f"token stream: expected tokens of model {model_id}, got tokens of model {header.model_id}; "
                         f"open the weights of {header.model_id}")
    expected = (*Grid(config).tokens_HW, config.quantizer.codebook_size)
    if expected != (header.rows, header.columns, header.codebook_size):
        raise ValueError(f"token stream: expected {expected[0]} x {expected[1]} tokens of {expected[2]} codes (model {model_id}), "
                         f"got {header.rows} x {header.columns} of {header.codebook_size}")


def _check_prior(prior: TokenPrior | None, model_id: str, codebook_size: int) -> None:
    if prior is not None and (prior.model_id, prior.codebook_size) != (model_id, codebook_size):
        raise ValueError(f"token prior: expected that of model {model_id} with {codebook_size} codes, "
                         f"got that of model {prior.model_id} with {prior.codebook_size}")


def _check_key(header: StreamHeader, prior: TokenPrior | None) -> None:
    if header.coding == PACKED and header.prior_hash != NO_PRIOR:
        raise ValueError(f"token stream: expected no prior for packed tokens, got {header.prior_hash.hex()}; the bytes were altered on the way")
    if header.coding == WITH_PRIOR and (prior is None or header.prior_hash != prior.key):
        has = "there is none" if prior is None else f"this is {prior.key.hex()}"
        raise ValueError(f"token stream: expected the prior that the tokens were coded with, {header.prior_hash.hex()}, {has}; "
                         f"put the sender's prior file beside the weights of {header.model_id}")


def _checksum(head: bytes, tokens: TokenArray) -> int:
    return zlib.crc32(tokens.astype("<u2").tobytes(), zlib.crc32(head))


def _packed(tokens: TokenArray, codebook_size: int) -> bytes:
    return np.packbits((tokens.reshape(-1, 1) >> _places(codebook_size)) & 1).tobytes()


def _unpacked(body: bytes, header: StreamHeader) -> TokenArray:
    places, cells = _places(header.codebook_size), header.rows * header.columns
    expected = (cells * len(places) + 7) // 8
    if len(body) != expected:
        raise ValueError(f"token stream: expected {expected} bytes after the header, got {len(body)}; it was cut, or something was added")
    bits = np.unpackbits(np.frombuffer(body, dtype=np.uint8))
    if bits[cells * len(places):].any():
        raise ValueError("token stream: expected zeros after the last token; the bytes were altered on the way")
    values = bits[:cells * len(places)].reshape(cells, -1).astype(np.uint16) << places
    return np.asarray(values.sum(axis=1, dtype=np.uint16).reshape(header.rows, header.columns))


def _places(codebook_size: int) -> npt.NDArray[np.uint16]:
    """Places of a token's bits, the highest first."""
    return np.arange((codebook_size - 1).bit_length(), dtype=np.uint16)[::-1]
