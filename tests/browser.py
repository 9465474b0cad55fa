"""A headless Chromium, spoken to through a pipe: no driver, no package, no network.

The protocol: https://chromedevtools.github.io/devtools-protocol/.
"""

import base64
import fcntl
import itertools
import json
import os
import pathlib
import shutil
import subprocess
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe")


def find() -> str | None:
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One page at a time; what it complains of and what it asks for is kept."""

    def __init__(self, program: str, profile: pathlib.Path):
        (read_there, write), (read, write_there) = os.pipe(), os.pipe()
        # Above 4, so that neither overwrites the other on its way to 3 and 4.
        there = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (read_there, write_there)]
        os.close(read_there), os.close(write_there)
        command = (program, *FLAGS, f"--user-data-dir={profile}", "about:blank")
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{there[0]} 4>&{there[1]}', "bash", *command],
            pass_fds=there,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in there:
            os.close(fd)
        self._in, self._out = os.fdopen(write, "wb", 0), os.fdopen(read, "rb")
        self._ids, self._session, self._events = itertools.count(), None, []
        (target, *_) = [
            t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"
        ]
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        message = {"id": next(self._ids), "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._in.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == message["id"]:
                assert "error" not in answer, answer
                return answer["result"]
            self._events.append(answer)

    def _next(self) -> dict[str, Any]:
        data = bytearray()
        while (byte := self._out.read(1)) != b"\0":
            assert byte, "the browser has ended"
            data += byte
        return json.loads(data)

    def open(self, path: pathlib.Path, width: int, height: int = 900, **media: str) -> None:
        """Loads a file in a window of so many pixels; `prefers_color_scheme="dark"`, for one."""
        assert path.exists(), path
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [{"name": k.replace("_", "-"), "value": v} for k, v in media.items()]
        self.call("Emulation.setEmulatedMedia", features=features)
        self._events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._events.append(self._next())

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def complaints(self) -> list[Any]:
        """Errors and warnings since the page was opened."""
        loud = {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"}
        return [event["params"] for event in self._events if event["method"] in loud]

    def requests(self) -> list[str]:
        """The addresses that the page asked for since it was opened, its own first."""
        sent = [e["params"] for e in self._events if e["method"] == "Network.requestWillBeSent"]
        return [event["request"]["url"] for event in sent]

    def screenshot(self, path: pathlib.Path) -> None:
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def close(self) -> None:
        self._in.close()
        self._process.terminate()
        self._process.wait(10)
        self._out.close()
