"""A headless Chromium, driven through chromedriver's HTTP interface (Debian: chromium-driver)."""

import base64
import json
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key under which the WebDriver standard returns an element."""
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
START_S = 120.0


class Browser:
    """One page at a time."""

    def __init__(self, session_url: str) -> None:
        self._url = session_url

    def open(self, url: str) -> None:
        """Load a page."""
        _post(f"{self._url}/url", {"url": url})

    def run(self, script: str) -> Any:
        """Run JavaScript in the page; returns what it returns."""
        return _post(f"{self._url}/execute/sync", {"script": script, "args": []})

    def picture(self, path: Path, selector: str = "") -> None:
        """Save the window, or the element that a CSS selector names, as PNG."""
        place = self._url
        if selector:
            found = _post(f"{place}/element", {"using": "css selector", "value": selector})
            place = f"{place}/element/{found[_ELEMENT]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(_get(f"{place}/screenshot")))


@contextmanager
def open_browser(width_px: int, height_px: int, scale: float = 1.0) -> Iterator[Browser]:
    """Start chromedriver and a window of that size (CSS pixels); `scale` device pixels each."""
    port = free_port()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        driver = subprocess.Popen(
            ["chromedriver", f"--port={port}", "--log-level=SEVERE"], stdout=subprocess.DEVNULL
        )
        try:
            base = f"http://127.0.0.1:{port}"
            wait_until(lambda: bool(_get(f"{base}/status")["ready"]), "chromedriver", START_S)
            flags = [
                *_FLAGS,
                f"--user-data-dir={profile}",
                f"--window-size={width_px},{height_px}",
                f"--force-device-scale-factor={scale}",
            ]
            wanted = {"alwaysMatch": {"goog:chromeOptions": {"args": flags}}}
            session = _post(f"{base}/session", {"capabilities": wanted})
            session_url = f"{base}/session/{session['sessionId']}"
            try:
                yield Browser(session_url)
            finally:
                _request(session_url, None, "DELETE")
        finally:
            driver.terminate()
            driver.wait()


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(ready: Callable[[], bool], what: str, timeout_s: float) -> None:
    """Ask twice a second until `ready` says yes; a refused connection is a no.

    Raises:
        TimeoutError: it never did.
    """
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        try:
            if ready():
                return
        except (urllib.error.URLError, ConnectionError):
            pass
        time.sleep(0.5)
    raise TimeoutError(f"{what} was not ready within {timeout_s:.0f} s")


def get_json(url: str) -> Any:
    """The JSON document at an address."""
    with urllib.request.urlopen(url, timeout=300) as answer:
        return json.loads(answer.read())


def _get(url: str) -> Any:
    return _request(url, None, "GET")


def _post(url: str, body: dict[str, Any]) -> Any:
    return _request(url, body, "POST")


def _request(url: str, body: dict[str, Any] | None, method: str) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url, data=data, method=method, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.loads(answer.read())["value"]
