"""A headless Chromium, driven over a pipe: the DevTools protocol, and nothing else installed.

Messages are JSON, ended by a zero byte; the browser reads them on descriptor 3, answers on 4.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
_STEP = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def found() -> str | None:
    """Path of a browser, if one is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def open_page(profile: Path, file: Path) -> Iterator["Tab"]:
    """A tab with a file from disk; whatever it complains about is kept."""
    program = found()
    assert program is not None
    here, there = os.pipe(), os.pipe()
    options = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--no-first-run", "--hide-scrollbars", "--remote-debugging-pipe",
        f"--user-data-dir={profile}", "about:blank",
    ]  # fmt: skip
    # The descriptors have other numbers here: a step between gives them those that are expected.
    process = subprocess.Popen(
        [sys.executable, "-c", _STEP, str(here[0]), str(there[1]), program, *options],
        pass_fds=(here[0], there[1]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(here[0])
    os.close(there[1])
    try:
        with os.fdopen(here[1], "wb", buffering=0) as to, os.fdopen(there[0], "rb") as back:
            tab = Tab(to, back)
            tab.start(file)
            yield tab
            tab.call("Browser.close", session=False)
        process.wait(timeout=30)
    finally:
        process.kill()
        process.wait()


class Tab:
    """One page."""

    def __init__(self, to: Any, back: Any) -> None:
        self._to, self._back = to, back
        self._count = 0
        self._session: str | None = None
        self._loaded = False
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def start(self, file: Path) -> None:
        target = self.call("Target.createTarget", session=False, url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", session=False, targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=file.as_uri())
        while not self._loaded:
            self._note(self._read())

    def show(self, width: int, *, dark: bool, height: int = 900) -> None:
        """Give the page a window."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 500,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def run(self, script: str) -> Any:
        """Value of an expression in the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def picture(self) -> bytes:
        """The whole page as PNG."""
        result = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(result["data"])

    def call(self, method: str, *, session: bool = True, **params: Any) -> dict[str, Any]:
        self._count += 1
        number = self._count
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self._note(answer)

    def _read(self) -> dict[str, Any]:
        data = bytearray()
        while (one := self._back.read(1)) != b"\0":
            assert one, "the browser has ended"
            data += one
        return dict(json.loads(data))

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded":
                self.complaints.append(json.dumps(params))
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
