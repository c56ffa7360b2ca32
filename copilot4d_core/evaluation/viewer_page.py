# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Serves Rerun's web viewer and one recording to browsers on this machine, while the recording is still being written.

What goes in: the open recording. What comes out: an address to open in a browser.
Unusual: Rerun's own server listens to the whole network, and its page fetches a font and sends usage statistics. So the
viewer's files are taken once from Rerun's server in a process that listens to loopback only, and served from here under
a content policy by which the browser itself lets nothing out.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

LOOPBACK = "127.0.0.1"
ASSETS = {"/": "text/html; charset=utf-8", "/re_viewer.js": "text/javascript", "/re_viewer_bg.wasm": "application/wasm"}
"""The files of Rerun's web viewer that are needed, and their types."""
RECORDING = "/drive.rrd"
CONTENT_POLICY = "default-src 'self' 'unsafe-inline' 'wasm-unsafe-eval' data: blob:"
START_S = 30.0
"""Longest start of Rerun's server; it takes less than a second."""
POLL_S = 0.02
BLOCK_BYTES = 1 << 20


class Page:
    """A page with the viewer and a recording that grows."""

    def __init__(self, recording: BinaryIO, port: int) -> None:
        """Take the address and answer.

        Args:
            recording: open for reading; somebody else appends to it until `finish`.
            port: 0 takes a free one.
        Raises:
            OSError: the port is taken, or Rerun's viewer does not start.
        """
        self._finished = threading.Event()
        try:
            self._server = _Server((LOOPBACK, port), _handler(_viewer_files(), recording, self._finished))
        except OSError as error:
            raise OSError(f"--port {port}: {error.strerror}; choose another, or leave it out for a free one") from error
        threading.Thread(target=self._server.serve_forever, args=(POLL_S,), daemon=True).start()

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://{LOOPBACK}:{self._server.server_port}/"

    def finish(self) -> None:
        """Say that the recording is whole: browsers stop waiting for more."""
        self._finished.set()

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *unused: object) -> None:
        self._finished.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing, where a browser has gone in the middle of an answer."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def _handler(files: dict[str, bytes], recording: BinaryIO, finished: threading.Event) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urllib.parse.urlsplit(self.path)
            host = self.headers.get("Host", "")
            if urllib.parse.urlsplit(f"//{host}").hostname not in (LOOPBACK, "localhost"):
                # A foreign page may reach this address through a name of its own; it must not read the recording.
                self.send_error(HTTPStatus.FORBIDDEN, "only for browsers on this machine")
            elif url.path == "/" and "url" not in urllib.parse.parse_qs(url.query):
                shown = urllib.parse.urlencode({"url": f"http://{host}{RECORDING}", "hide_welcome_screen": 1, "theme": "dark"})
                self._head(HTTPStatus.FOUND, Location=f"/?{shown}{'&' if url.query else ''}{url.query}")
            elif url.path in files:
                content = files[url.path]
                self._head(HTTPStatus.OK, **{"Content-Type": ASSETS[url.path], "Content-Length": str(len(content)),
                                             "rerun-final-length": str(len(content))})
                self.wfile.write(content)
            elif url.path == RECORDING:
                self._head(HTTPStatus.OK, **{"Content-Type": "application/octet-stream"})
                for block in _growing(recording, finished):
                    self.wfile.write(block)
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

        def _head(self, status: HTTPStatus, **fields: str) -> None:
            self.send_response(status)
            for name, value in {**fields, "Content-Security-Policy": CONTENT_POLICY}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *unused: object) -> None:
            """Say nothing: the terminal is the user's."""

    return Handler


def _growing(file: BinaryIO, finished: threading.Event) -> Iterator[bytes]:
    """The blocks of a file that others append to, until it is finished."""
    offset = 0
    while True:
        last_look = finished.is_set()
        block = os.pread(file.fileno(), BLOCK_BYTES, offset)
        offset += len(block)
        if block:
            yield block
        elif last_look:
            return
        else:
            finished.wait(POLL_S)


def _viewer_files() -> dict[str, bytes]:
    with _rerun_server() as address:
        files = {}
        for path in ASSETS:
            with urllib.request.urlopen(address + path, timeout=START_S) as answer:  # a server of ours on this machine  # nosec B310
                files[path] = answer.read()
    return files


@contextmanager
def _rerun_server() -> Iterator[str]:
    """Address of Rerun's own web server, in a process that ends with the block."""
    with tempfile.TemporaryDirectory(prefix="copilot4d_view_") as home:
        # A home of its own, where statistics are switched off: the user's settings stay as they are.
        environment = {**os.environ, "HOME": home, "XDG_CONFIG_HOME": home, "XDG_DATA_HOME": home}
        program = _rerun_program()
        log = Path(home) / "log.txt"
        subprocess.run([program, "analytics", "disable"], env=environment, capture_output=True, timeout=START_S, check=True)
        web, grpc = _free_ports(2)
        command = [program, "--serve-web", "--bind", LOOPBACK, "--port", str(grpc), "--web-viewer-port", str(web)]
        with log.open("wb") as output:
            process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            _wait_for(web, process, log)
            yield f"http://{LOOPBACK}:{web}"
        finally:
            process.kill()
            process.wait()


def _rerun_program() -> str:
    spec = find_spec("rerun_cli")
    assert spec is not None and spec.origin is not None
    return str(Path(spec.origin).with_name("rerun"))


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline_s:
        try:
            socket.create_connection((LOOPBACK, port), timeout=START_S).close()
            return
        except ConnectionRefusedError:
            time.sleep(POLL_S)
    raise OSError(f"view: Rerun's viewer did not start; it says: {log.read_text(errors='replace')[-1000:]}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server((LOOPBACK, 0)) for _ in range(count)]
    ports = [taken.getsockname()[1] for taken in sockets]
    for taken in sockets:
        taken.close()
    return ports
