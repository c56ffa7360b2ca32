# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""Headless Chromium, driven over its DevTools protocol: open a page, look at it, and list what it fetched.

`python test/chromium.py ADDRESS PICTURE WIDTH HEIGHT` writes a picture of a page as soon as it has settled.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import websocket
from PIL import Image

PROGRAM = shutil.which("chromium")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
         "--remote-debugging-port=0", "--remote-allow-origins=*")
START_S = 30.0
ANSWER_S = 120.0
"""Longest answer: without a GPU a page of points takes seconds to draw."""
PAUSE_S = 0.5


class Tab:
    """The browser's only tab."""

    def __init__(self, address: str, width: int, height: int) -> None:
        self._socket = websocket.create_connection(address, timeout=ANSWER_S)
        self._count = 0
        self.let_out: dict[str, str] = {}
        """Addresses that were asked for and not blocked by the page's own content policy, by number of the request."""
        self._is_loaded = False
        self._call("Network.enable")
        self._call("Page.enable")
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def open(self, address: str) -> None:
        """Open a page, and wait until it is loaded: before that there is nothing to take a picture of."""
        answer = self._call("Page.navigate", url=address)
        assert "errorText" not in answer, answer
        while not self._is_loaded:
            self._note(json.loads(self._socket.recv()))

    def picture(self) -> npt.NDArray[np.uint8]:
        """(height, width, 3) RGB."""
        shot = base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))

    def wait_for(self, seen: Callable[[npt.NDArray[np.uint8]], bool], seconds: float) -> npt.NDArray[np.uint8]:
        """The first picture of which a condition holds, or the last one before the time is up."""
        deadline_s = time.monotonic() + seconds
        while not seen(picture := self.picture()) and time.monotonic() < deadline_s:
            time.sleep(PAUSE_S)
        return picture

    def _call(self, method: str, **parameters: object) -> dict[str, Any]:
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._count:
                assert "error" not in message, message
                return dict(message["result"])
            self._note(message)

    def _note(self, event: dict[str, Any]) -> None:
        if event["method"] == "Network.requestWillBeSent":
            self.let_out[event["params"]["requestId"]] = event["params"]["request"]["url"]
        elif event["method"] == "Network.loadingFailed" and event["params"].get("blockedReason") == "csp":
            self.let_out.pop(event["params"]["requestId"], None)
        self._is_loaded |= event["method"] == "Page.loadEventFired"


@contextmanager
def chromium(width: int, height: int) -> Iterator[Tab]:
    """A browser with a profile of its own, which ends with the block."""
    assert PROGRAM is not None
    with tempfile.TemporaryDirectory(prefix="copilot4d_chromium_", ignore_cleanup_errors=True) as profile:
        command = [PROGRAM, *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = _port(Path(profile) / "DevToolsActivePort", process)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=START_S) as answer:
                tab = next(entry for entry in json.load(answer) if entry["type"] == "page")
            yield Tab(tab["webSocketDebuggerUrl"], width, height)
        finally:
            process.terminate()
            process.wait(START_S)


def _port(file: Path, process: subprocess.Popen[bytes]) -> int:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        if file.exists() and len(lines := file.read_text().split()) == 2:
            return int(lines[0])
        time.sleep(0.05)
    raise RuntimeError(f"Chromium did not start within {START_S:.0f} s; its exit code is {process.poll()}")


def main(address: str, picture: str, width: str, height: str) -> None:
    shots: list[npt.NDArray[np.uint8]] = []

    def settled(shot: npt.NDArray[np.uint8]) -> bool:
        shots.append(shot)
        return len(shots) > 2 and len(np.unique(shot.reshape(-1, 3), axis=0)) > 1000 and np.array_equal(shots[-2], shot)

    with chromium(int(width), int(height)) as tab:
        tab.open(address)
        shot = tab.wait_for(settled, 300.0)
    image = Image.fromarray(shot)
    image.quantize(palette=image.quantize(256), dither=Image.Dither.FLOYDSTEINBERG).save(picture, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
