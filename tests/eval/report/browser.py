"""Headless Chromium over its own debugging pipe: what a page asks for, says and measures."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One page. `requests` are the addresses it fetched beyond itself, `errors` what its console said."""

    def __init__(self, profile):
        reads, self._commands = os.pipe()
        self._answers, writes = os.pipe()

        def handles():  # Chromium reads commands from 3 and answers on 4
            spare = [os.dup(reads), os.dup(writes)]
            while min(spare) <= 4:
                spare = [os.dup(spare[0]), os.dup(spare[1])]
            os.dup2(spare[0], 3)
            os.dup2(spare[1], 4)

        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"]
        options += ["--disable-dev-shm-usage", "--hide-scrollbars", f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            [CHROMIUM, *options], preexec_fn=handles, close_fds=False, stderr=subprocess.DEVNULL
        )
        os.close(reads)
        os.close(writes)
        self._buffer, self._number, self._session = b"", 0, None
        self.requests, self.errors, self._events = [], [], []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self(f"{domain}.enable")

    def __call__(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _read(self):
        while b"\0" not in self._buffer:
            piece = os.read(self._answers, 1 << 20)
            assert piece, "Chromium ended"
            self._buffer += piece
        text, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(text)
        event, detail = message.get("method"), message.get("params", {})
        if event == "Network.requestWillBeSent" and not detail["request"]["url"].startswith("data:"):
            self.requests.append(detail["request"]["url"])
        elif event in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
            self.errors.append(detail)
        self._events.append(event)
        return message

    def open(self, path: Path, width: int, height: int, dark: bool = False):
        self.requests, self.errors, self._events = [], [], []
        mobile = width < 600
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])
        self("Page.navigate", url=path.as_uri())
        while "Page.loadEventFired" not in self._events:
            self._read()
        self.requests = [url for url in self.requests if url != path.as_uri()]

    def value(self, expression):
        return self("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            self("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode={"Tab": 9}[key])

    def screenshot(self, path: Path):
        clip = {**self("Page.getLayoutMetrics")["cssContentSize"], "x": 0, "y": 0, "scale": 1}
        shot = self("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self):
        with contextlib.suppress(OSError):
            os.close(self._commands)
        self._process.terminate()
        self._process.wait(20)
        os.close(self._answers)
