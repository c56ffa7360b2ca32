# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""The kernel cache: processes that start at once, are killed, or find damage, all compute right, and nobody compiles twice for nothing."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from copilot4d_core.kernels import cache
from copilot4d_core.kernels.cache import open_cache
from copilot4d_core.kernels.process_folder import make_process_folder

VERSION = "1.0.0"
MODULE = "wp_points_1234567"

PROGRAM = '''
import logging, os, sys, time
logging.basicConfig(format="%(message)s")
from copilot4d_core.kernels.cache import use_process_cache
import warp as wp
wp.config.log_level = wp.LOG_ERROR
wp.config.enable_backward = False
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
cache = use_process_cache(wp.init)
from pathlib import Path

@wp.kernel
def square(values: wp.array(dtype=wp.float32)):
    i = wp.tid()
    values[i] = values[i] * values[i]

@wp.kernel(module="unique")
def triple(values: wp.array(dtype=wp.float32)):
    i = wp.tid()
    values[i] = 3.0 * values[i]

values = wp.array([1.0, 2.0, 3.0], dtype=wp.float32, device="cpu")
wp.launch(square, 3, inputs=[values], device="cpu")
wp.launch(triple, 3, inputs=[values], device="cpu")
# Warp leaves the C++ source of what it compiled; the root keeps no sources.
compiled = len(list(Path(wp.config.kernel_cache_dir).glob("wp_*/*.cpp")))
print(*values.numpy(), compiled, cache is not None, wp.config.kernel_cache_dir, flush=True)
'''
RIGHT = ["3.0", "12.0", "27.0"]
"""3 x^2 for 1, 2, 3."""


def start(home: Path, *, go: bool = True, prefix: tuple[str, ...] = (), **variables: str) -> subprocess.Popen[str]:
    """A process with two small kernels; waits for the file `go` in its home."""
    program = home / "program.py"
    if not program.exists():
        program.write_text(PROGRAM)
    if go:
        (home / "go").touch()
    environment = {key: value for key, value in os.environ.items() if key not in ("XDG_CACHE_HOME", "WARP_CACHE_PATH")}
    environment |= {"HOME": str(home), "PYTHONPATH": str(Path(cache.__file__).parents[2])} | variables
    return subprocess.Popen([*prefix, sys.executable, str(program), str(home / "go")], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[str]) -> tuple[list[str], int, bool, str, str]:
    """Values, modules compiled, whether the cache was ours, Warp's folder, stderr."""
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    first, second, third, compiled, ours, folder = out.split()
    return [first, second, third], int(compiled), ours == "True", folder, error


def root_of(home: Path) -> Path:
    (root,) = (home / ".cache" / "copilot4d" / "kernels").iterdir()
    return root


@pytest.fixture(scope="module")
def warm_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home after four processes started at once from nothing."""
    home = tmp_path_factory.mktemp("home")
    together = [start(home, go=False) for _ in range(4)]
    time.sleep(1.0)
    (home / "go").touch()
    for values, compiled, ours, _, error in map(finish, together):
        assert (values, ours) == (RIGHT, True)
        assert compiled in (0, 2)  # a late one may find the work of an early one
        assert "kernel cache" not in error
    return home


@pytest.fixture
def home(warm_home: Path, tmp_path: Path) -> Path:
    """A copy of the warm home, to be spoilt."""
    return Path(shutil.copytree(warm_home, tmp_path / "home"))


def test_after_four_at_once_a_fifth_compiles_nothing(warm_home: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root_of(warm_home).rglob("*")}
    values, compiled, _, folder, _ = finish(start(warm_home))
    assert (values, compiled) == (RIGHT, 0)
    assert Path(folder).is_relative_to(root_of(warm_home) / "processes")
    after = {path: path.stat().st_mtime_ns for path in root_of(warm_home).rglob("*")}
    processes = root_of(warm_home) / "processes"
    assert {path: when for path, when in after.items() if path != processes} == {path: when for path, when in before.items() if path != processes}
    assert len(list((root_of(warm_home) / "modules").iterdir())) == 2
    assert list(processes.iterdir()) == []


def test_a_process_killed_while_it_compiles_leaves_nothing_that_breaks_the_next(tmp_path: Path) -> None:
    victim = start(tmp_path)
    processes = tmp_path / ".cache" / "copilot4d" / "kernels"
    deadline = time.monotonic() + 60.0
    while not list(processes.glob("*/processes/*/*/wp_*_p*_t*")):
        assert time.monotonic() < deadline and victim.poll() is None, "Warp was not seen compiling"
        time.sleep(0.005)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert len(list(root_of(tmp_path).glob("processes/*"))) == 1
    assert list(root_of(tmp_path).glob("modules/*")) == []
    values, compiled, _, _, _ = finish(start(tmp_path))
    assert (values, compiled) == (RIGHT, 2)
    assert list(root_of(tmp_path).glob("processes/*")) == []
    assert finish(start(tmp_path))[1] == 0


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "missing", "index", "foreign"])
def test_a_damaged_module_is_compiled_again_and_the_root_healed(home: Path, damage: str) -> None:
    binary = sorted(root_of(home).glob("modules/*/*.o"))[0]
    whole = binary.read_bytes()
    middle = len(whole) // 2
    if damage == "flipped":
        binary.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1:])
    elif damage == "truncated":
        binary.write_bytes(whole[:middle])
    elif damage == "empty":
        binary.write_bytes(b"")
    elif damage == "missing":
        binary.unlink()
    elif damage == "index":
        (binary.parent / "files.json").write_text("{")
    else:
        (binary.parent / "files.json").write_text(json.dumps({"module": "../../../../escaped", "files": {}}))
    values, compiled, _, _, error = finish(start(home))
    assert (values, compiled) == (RIGHT, 1)
    assert f"{binary.parent} is damaged" in error
    assert not list(home.glob("**/escaped"))
    values, compiled, _, _, error = finish(start(home))
    assert (values, compiled, "damaged" in error) == (RIGHT, 0, False)
    assert binary.exists()


def test_the_users_own_cache_path_is_left_alone(tmp_path: Path) -> None:
    chosen = tmp_path / "chosen"
    values, _, ours, folder, _ = finish(start(tmp_path, WARP_CACHE_PATH=str(chosen)))
    assert (values, ours) == (RIGHT, False)
    assert Path(folder).is_relative_to(chosen)
    assert not (tmp_path / ".cache" / "copilot4d").exists()


def test_a_root_that_cannot_be_made_gives_way_to_a_temporary_folder_with_one_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    values, compiled, _, folder, error = finish(start(tmp_path, XDG_CACHE_HOME=str(tmp_path / "file"), TMPDIR=str(temporary)))
    assert (values, compiled) == (RIGHT, 2)
    assert Path(folder).is_relative_to(temporary)
    assert error.count("kernel cache") == 1 and "cannot be used" in error
    assert list(temporary.glob("copilot4d-*")) == []


def test_a_warm_root_that_is_read_only_still_serves(home: Path, tmp_path: Path) -> None:
    for folder in [path for path in (home / ".cache").rglob("*") if path.is_dir()]:
        folder.chmod(0o555)
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:
        # Root may write anywhere unless it gives that right up.
        prefix = ("setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override")
        if shutil.which("setpriv") is None or subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode:
            pytest.skip("needs a user other than root, or setpriv that can drop a capability")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    try:
        values, compiled, _, folder, error = finish(start(home, prefix=prefix, TMPDIR=str(temporary)))
    finally:
        for path in (home / ".cache").rglob("*"):
            path.chmod(0o755)
    assert (values, compiled) == (RIGHT, 0)
    assert Path(folder).is_relative_to(temporary)
    assert error.count("kernel cache") == 1


# Below, Warp is not needed: a cache and folders as Warp leaves them.


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "copilot4d" / "kernels" / VERSION


def compile_module(folder: Path, module: str = MODULE, binary: str = "cpu00.o", content: bytes = b"code") -> None:
    """What Warp leaves of a module."""
    (folder / module).mkdir(exist_ok=True)
    (folder / module / f"{module}.{binary}").write_bytes(content)
    (folder / module / f"{module}.meta").write_text("{}")
    (folder / module / f"{module}.cpp").write_text("source")


def test_binaries_of_another_processor_join_those_that_are_there(root: Path) -> None:
    for binary in ("cpu00.o", "cpu11.o", "sm87.cubin"):
        mine = open_cache(VERSION)
        mine.fill(mine.folder.path)
        compile_module(mine.folder.path, binary=binary, content=binary.encode())
        assert mine.publish() == 1
        mine.close()
    last = open_cache(VERSION)
    assert last.fill(last.folder.path) == 3
    found = {path.name: path.read_bytes() for path in (last.folder.path / MODULE).iterdir()}
    assert found == {f"{MODULE}.cpu00.o": b"cpu00.o", f"{MODULE}.cpu11.o": b"cpu11.o", f"{MODULE}.sm87.cubin": b"sm87.cubin", f"{MODULE}.meta": b"{}"}
    assert last.publish() == 0
    last.close()


def test_of_two_with_the_same_module_the_first_wins(root: Path) -> None:
    first, second = open_cache(VERSION), open_cache(VERSION)
    for process, content in ((first, b"first"), (second, b"second")):
        compile_module(process.folder.path, content=content)
        process.close()
    (entry,) = (root / "modules").iterdir()
    assert (entry / f"{MODULE}.cpu00.o").read_bytes() == b"first"
    assert list((root / "processes").iterdir()) == []


def test_what_warp_has_not_finished_is_not_published(root: Path) -> None:
    mine = open_cache(VERSION)
    compile_module(mine.folder.path, f"{MODULE}_p123_t456")
    compile_module(mine.folder.path, "wp_without_meta")
    (mine.folder.path / "wp_without_meta" / "wp_without_meta.meta").unlink()
    assert mine.publish() == 0
    mine.close()


def test_folders_of_the_living_stay_and_those_of_the_dead_go(root: Path) -> None:
    alive = open_cache(VERSION)
    dead = make_process_folder(root / "processes")
    os.close(dead.lock)  # what the system does for a process that is killed
    old, new = root / "processes" / "copilot4d-kernels-old", root / "processes" / "copilot4d-kernels-new"
    for folder in (old, new):
        folder.mkdir()
    long_ago = time.time() - 7200
    os.utime(old, (long_ago, long_ago))
    another = open_cache(VERSION)
    assert set((root / "processes").iterdir()) == {alive.folder.path, another.folder.path, new}
    alive.close()
    another.close()


def test_a_forked_child_leaves_its_parents_folder(root: Path) -> None:
    mine = open_cache(VERSION)
    child = os.fork()
    if child == 0:
        mine.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert mine.folder.path.is_dir()
    mine.close()
    assert not mine.folder.path.exists()


def test_a_root_that_others_may_write_is_not_trusted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    mine = open_cache(VERSION)
    compile_module(mine.folder.path)
    mine.close()
    (root / "modules").chmod(0o777)
    with caplog.at_level(logging.WARNING):
        careful = open_cache(VERSION)
    assert "can be written by other users" in caplog.text
    assert careful.fill(careful.folder.path) == 0
    assert not careful.folder.path.is_relative_to(root)
    careful.close()


def test_the_oldest_entries_go(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST_ENTRIES", 2)
    for number in range(4):
        mine = open_cache(VERSION)
        compile_module(mine.folder.path, f"wp_{number}")
        mine.close()
        time.sleep(0.01)
    assert sorted(entry.name[:4] for entry in (root / "modules").iterdir()) == ["wp_2", "wp_3"]


def test_a_relative_cache_home_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "somewhere")
    monkeypatch.setenv("HOME", "/home/robot")
    assert cache.cache_root() == Path("/home/robot/.cache/copilot4d/kernels")


def test_a_full_disk_while_filling_leaves_no_half_module(root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    mine = open_cache(VERSION)
    compile_module(mine.folder.path)
    mine.close()
    another = open_cache(VERSION)

    def full(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert another.fill(another.folder.path) == 0
    assert not (another.folder.path / MODULE).exists()
    assert "No space left" in caplog.text
    monkeypatch.undo()
    another.close()


def test_a_warm_start_takes_less_than_50_ms(root: Path) -> None:
    """40 modules of 100 kB: several times what the node loads."""
    mine = open_cache(VERSION)
    for number in range(40):
        compile_module(mine.folder.path, f"wp_{number}", content=os.urandom(100_000))
    mine.close()
    times_s = []
    for _ in range(5):
        begin = time.perf_counter()
        warm = open_cache(VERSION)
        assert warm.fill(warm.folder.path) == 40
        times_s.append(time.perf_counter() - begin)
        warm.close()
    print(f"warm start: {min(times_s) * 1e3:.1f} ms")
    assert min(times_s) < 0.05
