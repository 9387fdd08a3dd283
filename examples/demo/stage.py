"""What the demo stands on: the processes it starts, the file it edits, and how it speaks in the terminal."""

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 15  # Seconds until something that should happen counts as failed.

GATEWAY_TOML = """\
[server]
listen = "127.0.0.1:{port}"

[admin]
listen = "127.0.0.1:0"

[backends.legacy]
url = "{legacy}"

[backends.workers]
url = "{workers}"

[rollout]
workers = true
percent = 0

[exports.overlay]
params = ["highlight_regions", "effect_type"]
[exports.overlay.input_key]
database = "{data}/user_data/{{user_id}}/database.sqlite"
query = "SELECT filename FROM working_videos WHERE project_id = :project_id ORDER BY version DESC LIMIT 1"
key = "working_videos/{{filename}}"
missing = "No working video found"

[exports.framing]
[exports.annotate]

[jobs]
store = "jobs.db"
"""


class Broken(Exception):
    """A step of the story that did not hold."""


def claim(holds: Any, sentence: str) -> None:
    if not holds:
        raise Broken(sentence)


def wait_for(sentence: str, probe: Callable[[], Any], pause: float = 0.02) -> Any:
    end = time.monotonic() + PATIENCE
    while not (found := probe()):
        claim(time.monotonic() < end, f"waited {PATIENCE} s in vain: {sentence}")
        time.sleep(pause)
    return found


def die_with_parent() -> None:
    # Linux: also when the demo is killed the gateway shall not stay behind.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Voice:
    """Calm lines in the terminal; colours and moving bars only where a person looks on."""

    def __init__(self) -> None:
        self.tty = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self.steps = 0
        self.shown = -1  # The percentage that was shown last.
        self.moving = False

    def paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.tty else text

    def bold(self, text: str) -> str:
        return self.paint("1", text)

    def dim(self, text: str) -> str:
        return self.paint("2", text)

    def backend(self, name: str) -> str:
        return self.paint({"legacy": "38;5;179", "workers": "38;5;75"}.get(name, "0"), name)

    def line(self, text: str = "") -> None:
        print(text, flush=True)

    def step(self, title: str) -> None:
        self.steps += 1
        self.line(f"\n{self.bold(f'{self.steps}  {title}')}")

    def say(self, text: str) -> None:
        self.line(f"   {text}")

    def good(self, text: str) -> None:
        self.line(f"   {self.paint('32', '✓')} {text}")

    def edit(self, old: str, new: str) -> None:
        """An edit of the file, as a diff shows it."""
        self.say(f"{self.dim('gateway.toml')}   {self.paint('31', '- ' + old)}   {self.paint('32', '+ ' + new)}")

    def quote(self, text: str) -> None:
        for line in text.strip("\n").splitlines():
            self.say(f"{self.dim('│')} {line}")

    def progress(self, percent: int) -> None:
        """A bar that moves in place; without a terminal, a line every quarter."""
        if self.tty:
            full = percent * 30 // 100
            bar = self.paint("38;5;75", "━" * full) + self.dim("━" * (30 - full))
            print(f"\r   {bar} {percent:3} %", end="", flush=True)
            self.moving = True
        elif percent // 25 > self.shown // 25:
            self.say(f"progress {percent} %")
        self.shown = percent

    def progress_end(self) -> None:
        if self.moving:
            print(flush=True)
        self.moving = False


class Part:
    """A real part, by tests/backends/run.py; it ends with this process."""

    def __init__(self, name: str, *arguments: str, port: int = 0) -> None:
        command = [sys.executable, str(ROOT / "tests/backends/run.py"), name, "--port", str(port), *arguments]
        self.name, self.arguments = name, arguments
        # A session of its own: Ctrl-C is for the demo, which then ends its parts itself.
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        line = self.process.stdout.readline()
        claim(line, f"{name} did not start")
        self.url = json.loads(line)["url"]

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait(PATIENCE)

    def jobs(self) -> list[dict]:
        return httpx.get(f"{self.url}/_test/jobs").json()


class Gateway:
    """The real binary, with a folder of its own."""

    def __init__(self, binary: str, folder: Path, port: int, legacy: Part, workers: Part, data: Path) -> None:
        self.binary, self.config = binary, folder / "gateway.toml"
        self.write(GATEWAY_TOML.format(port=port, legacy=legacy.url, workers=workers.url, data=data))
        self.events: list[dict] = []
        self.access: list[dict] = []
        self.process = subprocess.Popen(
            [binary, "--config", str(self.config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        for pipe, lines in ((self.process.stdout, self.access), (self.process.stderr, self.events)):
            threading.Thread(target=self.collect, args=(pipe, lines), daemon=True).start()
        self.url = self.wait_address("listening")
        self.admin = self.wait_address("admin listening")

    def wait_address(self, message: str) -> str:
        return wait_for(f"the gateway says {message!r}", lambda: self.address(message))

    @staticmethod
    def collect(pipe: Any, lines: list) -> None:
        for line in pipe:
            try:
                lines.append(json.loads(line))
            except ValueError:
                lines.append({"message": line.rstrip()})

    def address(self, message: str) -> str | None:
        if self.process.poll() is not None:
            said = "\n".join(str(event.get("message", event)) for event in self.events)
            raise Broken(f"the gateway ended with code {self.process.returncode}:\n{said}")
        for event in self.events:
            event = {**event, **event.get("fields", {})}
            if event.get("message") == message:
                return f"http://{event['address']}"
        return None

    def write(self, text: str) -> None:
        """Saves as editors do: a new file, renamed into place."""
        new = self.config.with_suffix(".new")
        new.write_text(text)
        new.rename(self.config)

    def edit(self, old: str, new: str) -> None:
        text = self.config.read_text()
        claim(old in text, f"gateway.toml has no line {old!r}")
        self.write(text.replace(old, new))

    def metric(self, series: str) -> float | None:
        found = re.search(rf"^{re.escape(series)} (\S+)$", httpx.get(f"{self.admin}/metrics").text, re.M)
        return float(found[1]) if found else None

    def percent(self) -> float | None:
        return self.metric('export_gateway_rollout_percent{type="overlay"}')

    def check(self) -> subprocess.CompletedProcess:
        return self.run("check")

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([self.binary, *arguments, "--config", str(self.config)], capture_output=True, text=True)

    def access_line(self, request_id: str) -> dict:
        def find() -> dict | None:
            return next((line for line in self.access if line.get("request_id") == request_id), None)

        return wait_for(f"the access log has {request_id}", find)

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait(90)


class Stage:
    """Everything that runs, started in order and ended in reverse."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="export-gateway-demo-"))
        self.running: list[Part | Gateway] = []

    def start(self, binary: str, port: int, seconds: float) -> None:
        data = self.folder / "legacy"
        self.runpod = self.keep(Part("runpod", "--seconds", str(seconds)))
        self.legacy = self.keep(Part("legacy", "--runpod-url", self.runpod.url, "--data", str(data)))
        self.workers = self.keep(
            Part("workers", "--runpod-url", self.runpod.url, "--data", str(self.folder / "workers"))
        )
        self.gateway = self.keep(Gateway(binary, self.folder, port, self.legacy, self.workers, data))

    def keep(self, new: Any) -> Any:
        self.running.append(new)
        return new

    def workers_down(self) -> None:
        self.running.remove(self.workers)
        self.workers.end()

    def workers_up(self) -> None:
        self.workers = self.keep(Part("workers", *self.workers.arguments, port=self.workers.port))

    def end(self) -> None:
        for one in reversed(self.running):
            try:
                one.end()
            except (OSError, subprocess.TimeoutExpired):
                one.process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
