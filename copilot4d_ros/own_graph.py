# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""A ROS graph of our own: nobody else's topics reach it and its topics reach nobody; for the demo and the tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from copilot4d_ros.dds_profile import large_data_environment

_DOMAINS = range(1, 102)
"""Domain ids whose ports lie below those that Linux hands out by itself."""
_FIRST_LOCK_PORT = 23100
_STOP_S = 30.0


@contextmanager
def own_graph() -> Iterator[int]:
    """Give this process and its children a domain id of their own, this machine only, and transport for large clouds.

    Enter it before `rclpy.init`; the environment is as before afterwards.

    Returns:
        The domain id.
    Raises:
        RuntimeError: every domain id is in use.
    """
    domain, lock = _reserved_domain()
    changes = {"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_LOCALHOST_ONLY": "1"}
    if os.environ.get("ROS_DISTRO", "") != "humble":
        del changes["ROS_LOCALHOST_ONLY"]  # Newer distributions warn about it.
    changes |= large_data_environment()
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield domain
    finally:
        lock.close()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _reserved_domain() -> tuple[int, socket.socket]:
    """A bound port reserves a domain id for as long as the process lives, even if it is killed."""
    for step in range(len(_DOMAINS)):
        domain = _DOMAINS[(os.getpid() + step) % len(_DOMAINS)]
        lock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            lock.bind(("127.0.0.1", _FIRST_LOCK_PORT + domain))
            return domain, lock
        except OSError:
            lock.close()
    raise RuntimeError(f"own graph: expected a free domain id among {_DOMAINS.start} to {_DOMAINS.stop - 1}, all are in use")


@contextmanager
def running_module(module: str, parameters: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A node as its own process, stopped with SIGINT at the end.

    Args:
        module: what `python -m` runs.
        parameters: what follows `--ros-args`.
        log: file for everything it prints.
    """
    with log.open("wb") as file:
        command = [sys.executable, "-m", module, "--ros-args", *parameters]
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes], with_signal: signal.Signals = signal.SIGINT) -> int:
    """End a process as Ctrl-C would; one that does not listen is killed.

    Returns:
        Its exit code.
    """
    if process.poll() is None:
        process.send_signal(with_signal)
    try:
        return process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
