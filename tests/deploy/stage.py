"""What every part of the deployment test stands on: commands, waiting, a table of what was seen, and tidying up."""

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
PARTS = Path(os.environ.get("EXPORT_GATEWAY_PARTS") or ROOT / ".parts").absolute()
TOOLS = Path(os.environ.get("EXPORT_GATEWAY_DEPLOY_PARTS") or PARTS / "deploy").absolute()


class Failure(Exception):
    """Something is not as it must be."""


def need(is_so: object, what: str) -> None:
    if not is_so:
        raise Failure(what)


def run(*command: object, check: bool = True, limit: float = 120, **options) -> subprocess.CompletedProcess:
    """Runs a command to its end, with its output as text; a failure shows the end of it."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=limit, errors="replace", **options)
    if check and done.returncode != 0:
        said = (done.stdout + done.stderr).strip().splitlines()[-25:]
        raise Failure(f"{' '.join(words)[:300]}: exit code {done.returncode}\n  " + "\n  ".join(said))
    return done


def eventually(what: str, probe: Callable, limit: float = 20, pause: float = 0.005):
    """Asks until there is an answer; errors of a connection count as none."""
    end = time.monotonic() + limit
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            found = probe()
            if found:
                return found
        if time.monotonic() > end:
            raise Failure(f"not within {limit} s: {what}")
        time.sleep(pause)


def ask(port: int, path: str, method: str = "GET", body: object = None, headers: dict | None = None, source="127.0.0.1"):
    """One request over a connection of its own; returns status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=70, source_address=(source, 0))
    try:
        data = json.dumps(body) if body is not None else None
        sent = {**({"Content-Type": "application/json"} if data else {}), **(headers or {})}
        connection.request(method, path, data, sent)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode(errors="replace")
    finally:
        connection.close()


def is_ready(port: int) -> bool:
    return ask(port, "/readyz")[0] == 200


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Stage:
    """One run: its scratch folder, the rows of its table, and what is undone at the end, last first."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.rows: list[tuple[str, str, str]] = []
        self.failed = False
        self.undo = contextlib.ExitStack()
        scratch.mkdir(parents=True, exist_ok=True)

    def row(self, part: str, what: str, value: str) -> None:
        self.rows.append((part, what, value))
        print(f"  {part:<10} {what:<58} {value}", flush=True)

    def seconds(self, part: str, what: str, took: float, bound: float | None = None) -> None:
        """A time, which must be below its bound."""
        shown = f"{took * 1000:.0f} ms" if took < 10 else f"{took:.0f} s"
        self.row(part, what, shown + (f"  (< {bound * 1000:.0f} ms)" if bound else ""))
        if bound is not None:
            need(took < bound, f"{what}: {shown}, at most {bound} s")

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part of the run: its failure is shown, and the next part runs all the same."""
        began = time.monotonic()
        print(f"{name}", flush=True)
        try:
            yield
        except (Failure, subprocess.SubprocessError, OSError, KeyError, ValueError) as problem:
            self.failed = True
            self.row(name, "FAILED", str(problem))
        else:
            self.row(name, "took", f"{time.monotonic() - began:.0f} s")

    def folder(self, name: str) -> Path:
        folder = self.scratch / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def start(self, *command: object, **options) -> subprocess.Popen:
        """Starts a process that is ended with the run, by its own handle."""
        process = subprocess.Popen([str(word) for word in command], **options)
        self.undo.callback(end, process)
        return process


def end(process: subprocess.Popen, limit: float = 10) -> int:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def swap_config(folder: Path, text: str) -> None:
    """Puts a gateway.toml into a folder as Kubernetes does for a ConfigMap: a new folder, and one link that is moved."""
    version = f"..{time.time_ns()}"
    (folder / version).mkdir()
    (folder / version / "gateway.toml").write_text(text)
    (folder / "..new").symlink_to(version)
    before = os.readlink(folder / "..data") if (folder / "..data").is_symlink() else None
    os.rename(folder / "..new", folder / "..data")
    if not (folder / "gateway.toml").is_symlink():
        (folder / "gateway.toml").symlink_to("..data/gateway.toml")
    if before:
        shutil.rmtree(folder / before)
    for path in [folder, folder / version]:
        path.chmod(0o755)


def fail(message: str) -> None:
    print(message, file=sys.stderr)
    sys.exit(1)
