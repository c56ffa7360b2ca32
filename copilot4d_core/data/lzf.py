# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""LZF decompression, as in compressed PCD files.

Source: the format of liblzf (Marc Lehmann): a control byte below 32 starts a run of control + 1 literal bytes; any
other repeats earlier output, its upper three bits the length, its lower five and the next byte the distance.
"""

from __future__ import annotations

LITERAL_LIMIT = 32
LONG_LENGTH = 7
"""Length bits that say that one more byte of length follows."""


def decompress(data: memoryview, size: int) -> bytes:
    """Decompress one block.

    Args:
        data: the compressed bytes.
        size: bytes that must come out.
    Raises:
        ValueError: the block ends early, points before its start, or gives another size.
    """
    out = bytearray()
    position, end = 0, len(data)
    try:
        while position < end:
            control = data[position]
            position += 1
            if control < LITERAL_LIMIT:
                run = data[position:position + control + 1]
                if len(run) != control + 1:
                    raise IndexError
                out += run
                position += control + 1
            else:
                length = control >> 5
                if length == LONG_LENGTH:
                    length += data[position]
                    position += 1
                distance = ((control & 31) << 8) + data[position] + 1
                position += 1
                _repeat(out, distance, length + 2)
            if len(out) > size:
                raise ValueError(f"LZF: expected {size} bytes after decompression, got more")
    except IndexError:
        raise ValueError(f"LZF: the compressed block ends inside a run, at byte {position} of {end}") from None
    if len(out) != size:
        raise ValueError(f"LZF: expected {size} bytes after decompression, got {len(out)}")
    return bytes(out)


def _repeat(out: bytearray, distance: int, length: int) -> None:
    """Append `length` bytes that start `distance` bytes before the end; they may overlap what is appended."""
    start = len(out) - distance
    if start < 0:
        raise ValueError(f"LZF: a repeat points {-start} bytes before the start")
    chunk = out[start:start + length]
    if distance < length:
        chunk = (chunk * (length // distance + 1))[:length]
    out += chunk
