"""A headless Chromium that tests steer through its own pipe: no driver, no port, no library."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome-headless-shell")
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-pipe",
    "about:blank",
)
_STARTER = """
import os, sys
os.dup2(int(sys.argv[1]), 3), os.dup2(int(sys.argv[2]), 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""


def find() -> str | None:
    """The browser of this machine; None if there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class Tab:
    """One page of the browser.

    Attributes:
        events: what it told without being asked, as (method, parameters).
    """

    pipe: "_Pipe"
    session: str
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """The browser's answer to a command of its protocol."""
        return self.pipe.call(method, params, self)

    def run(self, script: str) -> Any:
        """The value of an expression or a promise."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def open(self, file: Path, width: int, *, dark: bool = False, script: bool = True) -> None:
        """Shows a file in a window of some width and waits until it is drawn."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[theme])
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.call("Page.navigate", url=file.as_uri())
        self.wait("Page.loadEventFired")
        if script:
            self.settle()

    def settle(self) -> None:
        """Waits until two frames are drawn."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def wait(self, method: str) -> None:
        """Waits for an event that comes after this call or came since the last one."""
        while method not in (name for name, _ in self.events):
            self.pipe.read(self)
        self.events = [event for event in self.events if event[0] != method]

    def press(self, key: str) -> None:
        """Presses and lets go of a key."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, text=text if kind == "keyDown" else "")

    def point(self, x: float, y: float, *, click: bool = False) -> None:
        """Moves the pointer, and clicks there if told so."""
        kinds = ["mouseMoved", *(["mousePressed", "mouseReleased"] if click else [])]
        for kind in kinds:
            button = "none" if kind == "mouseMoved" else "left"
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=int(click))


@dataclass
class _Pipe:
    """Messages to and from the browser, each ended by a zero byte."""

    out: BinaryIO
    into: BinaryIO
    numbers: Iterator[int] = field(default_factory=itertools.count)
    buffer: bytes = b""

    def call(self, method: str, params: dict[str, object], tab: Tab | None = None) -> dict[str, Any]:
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params, **({"sessionId": tab.session} if tab else {})}
        self.out.write(json.dumps(message).encode() + b"\0")
        self.out.flush()
        while True:
            answer = self.read(tab)
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result

    def read(self, tab: Tab | None) -> dict[str, Any]:
        """The next message; events are kept with the tab."""
        while b"\0" not in self.buffer:
            chunk = os.read(self.into.fileno(), 1 << 16)
            assert chunk, "the browser is gone"
            self.buffer += chunk
        text, _, self.buffer = self.buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        if tab is not None and "method" in message and message.get("sessionId") == tab.session:
            tab.events.append((message["method"], message["params"]))
        return message


def _start(command: Sequence[str], folder: Path, pipes: Sequence[int]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", _STARTER, str(pipes[0]), str(pipes[1]), *command, f"--user-data-dir={folder}"],
        pass_fds=pipes, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


@contextmanager
def tab(binary: str, folder: Path) -> Iterator[Tab]:
    """A page of a fresh browser, whose profile lies in a folder; both end with the context."""
    (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
    process = _start([binary, *_OPTIONS], folder, (their_in, their_out))
    for end in (their_in, their_out):
        os.close(end)
    with open(our_out, "wb") as out, open(our_in, "rb", buffering=0) as into:
        pipe = _Pipe(out, into)
        try:
            target = pipe.call("Target.createTarget", {"url": "about:blank"})["targetId"]
            session = pipe.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
            page = Tab(pipe, session)
            for domain in ("Page", "Runtime", "Network", "Log"):
                page.call(f"{domain}.enable")
            page.call("Emulation.setFocusEmulationEnabled", enabled=True)
            yield page
        finally:
            process.kill()
            process.wait(timeout=30)
