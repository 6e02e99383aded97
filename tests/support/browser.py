"""A headless Chromium, driven over its DevTools protocol: just what a test of one page needs."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.support.debian import require_program

_FLAGS = (
    "--headless",
    "--no-sandbox",  # Chromium's sandbox refuses to run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)
_START_LIMIT_S, _CALL_LIMIT_S, _WAIT_LIMIT_S = 60, 30, 30
_KEYS = {"Enter": (13, "\r"), "Escape": (27, "")}
_MODIFIERS = {"": 0, "ctrl": 2, "shift": 8}


def require_chromium() -> str:
    """The browser's path; on Debian, as root, it is installed if it is missing. Raises RuntimeError."""
    return require_program("chromium", "chromium")


@contextmanager
def run_chromium(executable: str, folder: Path) -> Iterator[str]:
    """Start a browser with a fresh profile in `folder`; gives the address that open_page takes."""
    profile, log = folder / "profile", folder / "chromium.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [executable, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield _address(process, profile / "DevToolsActivePort", log)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # renderers, and the browser if it did not heed the signal
        process.wait()


def _address(process: subprocess.Popen[bytes], file: Path, log: Path) -> str:
    deadline_s = time.monotonic() + _START_LIMIT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        lines = file.read_text().splitlines() if file.exists() else []
        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        time.sleep(0.05)
    raise RuntimeError(f"Chromium did not start within {_START_LIMIT_S} s:\n{log.read_text()[-2000:]}")


@dataclass(slots=True)
class Page:
    """One tab. Its events are read along with the answers to calls."""

    connection: ClientConnection
    session: str
    events: list[dict[str, Any]] = field(default_factory=list)
    _ids: Iterator[int] = field(default_factory=lambda: itertools.count(1000))

    async def call(self, method: str, **params: object) -> dict[str, Any]:
        """One DevTools command."""
        return await _call(self.connection, next(self._ids), method, params, self.session, self.events)

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        deadline_s = time.monotonic() + _WAIT_LIMIT_S
        while not await self.evaluate(condition):
            if time.monotonic() > deadline_s:
                shown = await self.evaluate("[document.body.innerText, document.activeElement.outerHTML.slice(0, 200)]")
                raise AssertionError(f"{condition} was not true within {_WAIT_LIMIT_S} s; shown, focused: {shown}")
            await asyncio.sleep(0.02)

    async def type(self, text: str) -> None:
        """Enter text where the focus is."""
        await self.call("Input.insertText", text=text)

    async def press(self, key: str, modifier: str = "") -> None:
        """Press and release a key, held together with `ctrl` or `shift` if that is named."""
        code, text = _KEYS[key]
        event = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": _MODIFIERS[modifier]}
        await self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **event)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    async def click(self, selector: str) -> None:
        """Click into the middle of an element with the mouse."""
        box = await self.evaluate(f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().toJSON()")
        middle = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **middle)

    @property
    def errors(self) -> list[str]:
        """What the console shows as errors so far: uncaught exceptions, console.error, failed loads, violations."""
        found = []
        for event in self.events:
            params = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(json.dumps(params["exceptionDetails"]))
            elif event["method"] == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
                found.append(json.dumps(params["args"]))
            elif event["method"] == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                found.append(f"{params['entry']['text']} {params['entry'].get('url')}")
        return found

    @property
    def requested(self) -> list[str]:
        """The address of every request so far."""
        return [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]


@asynccontextmanager
async def open_page(address: str, url: str) -> AsyncIterator[Page]:
    """Open `url` in a tab of its own, with nothing of other tabs' state; returns once it can be typed into."""
    # Neither messages nor screenshots are bounded, and no proxy of the environment leads to this machine.
    async with connect(address, max_size=None, proxy=None) as connection:
        made = await _call(connection, 1, "Target.createBrowserContext", {"disposeOnDetach": True})
        target = await _call(connection, 2, "Target.createTarget", {"url": "about:blank", **made})
        attached = await _call(connection, 3, "Target.attachToTarget", {**target, "flatten": True})
        page = Page(connection, attached["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            await page.call(f"{domain}.enable")
        await page.call("Page.navigate", url=url)
        await page.until(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")
        # What has `autofocus` gets it only as the page is drawn, which may be after it is loaded.
        await page.until("document.activeElement.autofocus || !document.querySelector('[autofocus]')")
        yield page


async def _call(
    connection: ClientConnection,
    number: int,
    method: str,
    params: dict[str, Any],
    session: str | None = None,
    events: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    head = {"id": number, "method": method, "params": params}
    async with asyncio.timeout(_CALL_LIMIT_S):
        await connection.send(json.dumps(head if session is None else {**head, "sessionId": session}))
        while True:
            message = json.loads(await connection.recv())
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                result: dict[str, Any] = message["result"]
                return result
            if events is not None and "method" in message:
                events.append(message)
