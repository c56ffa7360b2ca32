# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Recordings of tokens: another reader reads them, whatever a kill leaves can be finished, and nothing altered comes out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rosbags.highlevel import AnyReader

from copilot4d_core.cli import main
from copilot4d_core.data.recording import LARGEST_CHUNK_BYTES, Recording, finish, recorded

TOPICS = (("/tokenizer/tokens/compressed", "std_msgs/msg/String"), ("/tokenizer/model_info", "std_msgs/msg/String"))
FIRST_NS = 1_700_000_000_000_000_000


def cdr(text: str) -> bytes:
    """std_msgs/String in CDR by hand: encapsulation, length with the zero, text, zero."""
    data = text.encode() + b"\0"
    return b"\0\1\0\0" + len(data).to_bytes(4, "little") + data


def write(path: Path, chunks: int = 4, each: int = 3, *, close: bool = True) -> list[str]:
    recording = Recording(path)
    channels = [recording.channel(topic, kind, "string data") for topic, kind in TOPICS]
    texts = [f"message {index}" for index in range(chunks * each)]
    for index, text in enumerate(texts):
        recording.write(channels[index % 2], FIRST_NS + index, cdr(text))
        if index % each == each - 1:
            recording.flush()
    if close:
        recording.close()
    return texts


def read_by_rosbags(path: Path) -> list[str]:
    with AnyReader([path]) as reader:
        found = [(time_ns, connection.topic, reader.deserialize(data, connection.msgtype).data) for connection, time_ns, data in reader.messages()]
    assert [(time_ns - FIRST_NS, topic) for time_ns, topic, _ in found] == [(index, TOPICS[index % 2][0]) for index in range(len(found))]
    return [text for _, _, text in found]


def test_another_reader_reads_a_finished_recording(tmp_path: Path) -> None:
    path = tmp_path / "tokens.mcap"
    texts = write(path)
    assert read_by_rosbags(path) == texts
    assert [message.data for message in recorded(path)] == [cdr(text) for text in texts]
    before = path.read_bytes()
    assert finish(path) == len(texts) and path.read_bytes() == before


def test_an_empty_recording_is_a_recording(tmp_path: Path) -> None:
    path = tmp_path / "tokens.mcap"
    Recording(path).close()
    assert list(recorded(path)) == [] and finish(path) == 0


def test_a_chunk_is_written_when_it_is_large(tmp_path: Path) -> None:
    path = tmp_path / "tokens.mcap"
    recording = Recording(path)
    channel = recording.channel("/points", "std_msgs/msg/String", "string data")
    recording.write(channel, 1, bytes(LARGEST_CHUNK_BYTES // 2))
    assert len(list(recorded(path))) == 0
    recording.write(channel, 2, bytes(LARGEST_CHUNK_BYTES // 2))
    assert len(list(recorded(path))) == 2
    recording.close()


def test_whatever_a_kill_leaves_gives_all_whole_chunks_and_another_reader_reads_what_was_finished(tmp_path: Path) -> None:
    path, cut = tmp_path / "tokens.mcap", tmp_path / "cut.mcap"
    texts = write(path, close=False)
    data = path.read_bytes()
    for size in range(8, len(data) + 1, 5):
        cut.write_bytes(data[:size])
        found = [message.data for message in recorded(cut)]
        assert found == [cdr(text) for text in texts[:len(found)]] and len(found) % 3 == 0
        if size % 50 == 3:
            assert finish(cut) == len(found)
            if found:
                assert read_by_rosbags(cut) == texts[:len(found)]
    assert len(found) == len(texts)
    assert [entry.name for entry in sorted(tmp_path.iterdir())] == ["cut.mcap", "tokens.mcap"]


def test_a_recording_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "bag.mcap"
    write(path, close=False)
    data = path.read_bytes().replace(b"copilot4d", b"libmcap 1", 1)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"bag\.mcap.*another program"):
        finish(path)
    assert path.read_bytes() == data


def test_of_an_unfinished_recording_a_damaged_chunk_is_left_out_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "tokens.mcap"
    texts = write(path, close=False)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"message 4", b"message 5", 1))
    assert finish(path) == len(texts) - 3
    assert [message.data for message in recorded(path)] == [cdr(text) for text in [*texts[:3], *texts[6:]]]


def test_zeros_that_a_power_cut_leaves_at_the_end_are_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "tokens.mcap"
    texts = write(path, close=False)
    data = path.read_bytes()
    for zeros in (data + bytes(4096), data[:-300] + bytes(300)):
        path.write_bytes(zeros)
        count = finish(path)
        assert count in (len(texts), len(texts) - 3) and read_by_rosbags(path) == texts[:count]


def test_an_altered_recording_gives_the_same_messages_or_a_refusal_by_name(tmp_path: Path) -> None:
    path = tmp_path / "tokens.mcap"
    write(path)
    data, whole = path.read_bytes(), list(recorded(path))
    refused = 0
    for at in range(0, len(data), 3):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1:])
        try:
            messages = list(recorded(path))
        except ValueError as error:
            assert "tokens.mcap" in str(error)
            refused += 1
        else:
            assert messages == whole[:len(messages)]
            assert len(messages) == len(whole) or at >= len(data) - 37, "only a file whose end is damaged may count as unfinished"
    assert refused > 100


def test_a_recording_that_is_being_written_is_not_finished_by_another(tmp_path: Path) -> None:
    path = tmp_path / "tokens.mcap"
    recording = Recording(path)
    with pytest.raises(ValueError, match=r"tokens\.mcap.*still runs"):
        finish(path)
    recording.close()
    assert finish(path) == 0


def test_the_command_finishes_what_a_killed_process_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tokens.mcap"
    code = ("import os, sys\nfrom pathlib import Path\nfrom copilot4d_core.data.recording import Recording\nr = Recording(Path(sys.argv[1]))\n"
            "c = r.channel('/a', 'std_msgs/msg/String', 'string data')\n[r.write(c, i, b'x') or r.flush() for i in range(5)]\n"
            "r.write(c, 9, b'lost')\nos.kill(os.getpid(), 9)")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", code, str(path)], env=environment, check=False).returncode == -9
    assert main(["finish", str(path)]) == 0
    assert "tokens.mcap: 5 messages" in capsys.readouterr().out
    assert main(["finish", str(tmp_path / "none.mcap")]) == 2


@pytest.mark.parametrize("content", [b"", b"no recording", b"\x89MCAP0\r"])
def test_what_is_no_recording_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.mcap"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.mcap"):
        finish(path)
