"""A headless Chromium, driven through its DevTools protocol."""

import base64
import contextlib
import json
import os
import select
import subprocess
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)


class Page:
    """One page in the browser: what it said on its console, what it asked for, what it shows."""

    def __init__(self, browser: "Browser", url: str, *, width: int, dark: bool) -> None:
        self._browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        browser.events.clear()
        self.call("Page.navigate", url=url)
        browser.wait_for("Page.loadEventFired")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, session=self._session, **parameters)

    def value_of(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def requests(self) -> list[str]:
        """Every address that the page asked for, its own included."""
        return [
            event["params"]["request"]["url"]
            for event in self._browser.events
            if event["method"] == "Network.requestWillBeSent"
        ]

    def complaints(self) -> list[dict[str, Any]]:
        """Console messages, uncaught exceptions and log entries."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [event for event in self._browser.events if event["method"] in kinds]

    def screenshot(self) -> bytes:
        """A PNG of the whole page."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(answer["data"])


class Browser:
    """A headless Chromium behind two pipes that carry its DevTools protocol.

    Messages are JSON, each ended by a zero byte. The protocol, unlike `--window-size`, gives a
    page the width of a phone, and tells what it asked of the network.
    """

    def __init__(self, program: str, profile: Path) -> None:
        to_browser, self._to = os.pipe()
        self._from, from_browser = os.pipe()
        # The browser reads descriptor 3 and writes descriptor 4.
        wiring = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", wiring, "browser", program, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self.events: list[dict[str, Any]] = []
        self._sent = 0
        self._rest = b""

    def open(self, path: Path, *, width: int = 1280, dark: bool = False) -> Page:
        return Page(self, path.resolve().as_uri(), width=width, dark=dark)

    def call(self, method: str, *, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Calls a method of the protocol and returns its answer."""
        self._sent += 1
        message: dict[str, Any] = {"id": self._sent, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._sent:
                assert "error" not in answer, (method, answer)
                return answer["result"]
            self.events.append(answer)

    def wait_for(self, method: str) -> None:
        """Returns once the event has happened."""
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._next())

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(self._to, b'{"id":0,"method":"Browser.close"}\0')
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not select.select([self._from], [], [], 60)[0]:
                raise RuntimeError("the browser says nothing any more")
            part = os.read(self._from, 1 << 20)
            if not part:
                raise RuntimeError(f"the browser ended with code {self._process.wait()}")
            self._rest += part
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)
