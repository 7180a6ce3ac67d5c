"""Headless Chromium for tests: pages as they are laid out, on a width, in light or dark, by keyboard."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --remote-debugging-pipe"
)
INTO_PLACE = """
import os, sys
reads, writes = (os.dup(int(number)) for number in sys.argv[1:3])
os.dup2(writes, 9)
os.dup2(reads, 3)
os.dup2(9, 4)
for number in (3, 4):
    os.set_inheritable(number, True)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""A program that becomes another, which expects its pipes at these places."""
PATIENCE = 300
"""Seconds in which a browser that is asked to end does."""


class Tab:
    """A page in a browser that is told what to do through a pipe, by the Chrome DevTools protocol."""

    def __init__(self, reader, writer):
        self._reader, self._writer, self._count, self._session, self._events = reader, writer, 0, None, []
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.tell("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.tell("Page.enable")
        self.tell("Runtime.enable")
        self.tell("Log.enable")

    def tell(self, method: str, **params: Any) -> dict[str, Any]:
        """Gives a command and returns what comes of it."""
        self._count += 1
        about = {"sessionId": self._session} if self._session else {}
        self._writer.write(json.dumps({"id": self._count, "method": method, "params": params} | about).encode() + b"\0")
        self._writer.flush()
        while True:
            heard = self._hear()
            if heard.get("id") == self._count:
                assert "error" not in heard, (method, heard)
                return heard["result"]
            self._events.append(heard)

    def _hear(self) -> dict[str, Any]:
        message = bytearray()
        while (byte := self._reader.read(1)) != b"\0":
            assert byte, "the browser has ended"
            message += byte
        return json.loads(message)

    def wait(self, event: str) -> None:
        """Returns once an event has come since the last wait."""
        while not any(heard.get("method") == event for heard in self._events):
            self._events.append(self._hear())
        self._events = [heard for heard in self._events if heard.get("method") != event]

    def open(self, address: str, width: int = 1400, dark: bool = False) -> None:
        """Opens an address on a screen of so many pixels."""
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.tell("Emulation.setDeviceMetricsOverride", **screen)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.tell("Emulation.setEmulatedMedia", features=scheme)
        self._events = []
        self.tell("Page.navigate", url=address)
        self.wait("Page.loadEventFired")

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self.tell("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        """Presses a key, such as ("Tab", 9)."""
        about = {"key": key, "code": key, "windowsVirtualKeyCode": code, "text": text}
        self.tell("Input.dispatchKeyEvent", type="keyDown", **about)
        self.tell("Input.dispatchKeyEvent", type="keyUp", **about)

    def complaints(self) -> list[str]:
        """What the browser's console said since the page was opened, such as what a policy forbids."""
        entries = [heard["params"]["entry"] for heard in self._events if heard.get("method") == "Log.entryAdded"]
        return [entry["text"] for entry in entries]

    def picture(self, path: Path) -> None:
        """Writes the whole page as a PNG."""
        height = min(self.run("document.documentElement.scrollHeight"), 6000)
        width = self.run("innerWidth")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self.tell("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def browsing(profile: Path) -> Iterator[Tab]:
    """Within, a browser runs with a profile of its own; skips the test where there is none."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no chromium and no chrome is installed")
    (from_us, ours), (theirs, to_us) = os.pipe(), os.pipe()
    command = [sys.executable, "-c", INTO_PLACE, str(from_us), str(to_us), browser, *FLAGS.split()]
    started = subprocess.Popen(
        [*command, f"--user-data-dir={profile}"], pass_fds=(from_us, to_us), stderr=subprocess.DEVNULL
    )
    os.close(from_us)
    os.close(to_us)
    with os.fdopen(theirs, "rb") as reader, os.fdopen(ours, "wb") as writer:
        try:
            yield Tab(reader, writer)
        finally:
            started.terminate()
            started.wait(PATIENCE)
