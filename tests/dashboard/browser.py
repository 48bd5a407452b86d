"""A headless Chromium, driven over WebDriver: JSON over HTTP, as https://www.w3.org/TR/webdriver2/ describes it."""

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.waiting import PATIENCE_S, wait_until

T = TypeVar("T")

DESKTOP = (1280, 900)
PHONE = (390, 844)

needs_chromium = pytest.mark.skipif(
    shutil.which("chromedriver") is None or shutil.which("chromium") is None,
    reason="there is no browser (Debian packages: chromium chromium-driver)",
)


class Browser:
    """One window."""

    def __init__(self, port: int, directory: Path) -> None:
        """port: of chromedriver. directory: for the browser's profile."""
        self._port = port
        self._session = ""
        arguments = [
            "--headless=new",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--no-first-run",
        ]
        arguments += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={directory}"]
        if os.getuid() == 0:
            arguments.append("--no-sandbox")
        options = {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        made = self._send("POST", "/session", {"capabilities": {"alwaysMatch": options}})
        self._session = f"/session/{made['sessionId']}"

    def open(self, url: str) -> None:
        self._ask("url", {"url": url})

    def run(self, script: str, *arguments: object) -> Any:
        """What a function with this body returns in the page."""
        return self._ask("execute/sync", {"script": script, "args": list(arguments)})

    def text(self, selector: str) -> str:
        """Of the first element that matches, as people see it; empty if there is none."""
        script = (
            "const found = document.querySelector(arguments[0]); return found?.innerText ?? found?.textContent ?? ''"
        )
        shown: str = self.run(script, selector)
        return shown

    def wait_for(self, script: str, *arguments: object) -> Any:
        """Until the function returns something true."""
        return wait_until(lambda: self.run(script, *arguments))

    def wait_for_text(self, selector: str, pattern: str) -> "re.Match[str]":
        return wait_until(lambda: re.search(pattern, self.text(selector)))

    def resize(self, width: int, height: int) -> None:
        """The page's own size, in CSS pixels, of any width."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme: str) -> None:
        """dark or light."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.devtools("Emulation.setEmulatedMedia", {"features": [feature]})

    def devtools(self, command: str, parameters: dict[str, Any]) -> Any:
        return self._ask("goog/cdp/execute", {"cmd": command, "params": parameters})

    def screenshot(self, path: Path, *, whole_page: bool = False) -> None:
        taken = self.devtools("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole_page})
        path.write_bytes(base64.b64decode(taken["data"]))

    def complaints(self) -> list[str]:
        """What the console has been told since the last call, warnings and errors."""
        entries = self._ask("se/log", {"type": "browser"})
        return [each["message"] for each in entries if each["level"] in ("SEVERE", "WARNING")]

    def requested(self) -> list[str]:
        """The addresses that were asked for since the last call."""
        entries = [json.loads(each["message"])["message"] for each in self._ask("se/log", {"type": "performance"})]
        return [each["params"]["request"]["url"] for each in entries if each["method"] == "Network.requestWillBeSent"]

    def close(self) -> None:
        self._send("DELETE", self._session, None)

    def _ask(self, command: str, body: dict[str, Any]) -> Any:
        return self._send("POST", f"{self._session}/{command}", body)

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            value = json.load(connection.getresponse())["value"]
        finally:
            connection.close()
        if isinstance(value, dict) and "error" in value:
            raise AssertionError(f"{value['error']}: {value['message']}")
        return value


@contextmanager
def running_browser(directory: Path) -> Iterator[Browser]:
    """directory: for its files; it has to exist."""
    log = directory / "chromedriver.log"
    with log.open("wb") as file:
        process = subprocess.Popen(["chromedriver", "--port=0"], stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    with process:
        try:
            found = wait_until(lambda: re.search(r"started successfully on port (\d+)", log.read_text()))
            browser = Browser(int(found[1]), directory / "profile")
            try:
                yield browser
            finally:
                browser.close()
        finally:
            process.terminate()
