"""The processes around the gateway: the real backends by `tests/backends/run.py`, and a Redis that keeps every write."""

import asyncio
import ctypes
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from wire import read_answer

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 30  # Seconds until something that should happen counts as failed.


class Broken(Exception):
    """Something that the run itself stands on did not work."""


def die_with_parent() -> None:
    # Linux: also when the chaos itself is killed nothing shall stay behind.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


async def get_json(url: str, path: str) -> Any:
    return json.loads(await get(url, path))


async def get(url: str, path: str) -> bytes:
    host, port = url.split("//")[1].split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 20)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return (await read_answer(reader, "GET")).body
    finally:
        writer.close()


async def post_json(url: str, path: str, value: Any) -> Any:
    host, port = url.split("//")[1].split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        body = json.dumps(value).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        writer.write(f"{head}\r\nConnection: close\r\n\r\n".encode() + body)
        return json.loads((await read_answer(reader, "POST")).body)
    finally:
        writer.close()


class Part:
    """A real backend; it ends with this process."""

    def __init__(self, name: str, *arguments: str) -> None:
        command = [sys.executable, str(ROOT / "tests/backends/run.py"), name, *arguments]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        line = self.process.stdout.readline()
        if not line:
            raise Broken(f"{name} did not start: has tests/backends/setup.sh run?")
        self.url: str = json.loads(line)["url"]

    async def jobs(self) -> list[dict]:
        return await get_json(self.url, "/_test/jobs")

    def end(self) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Redis:
    """A Redis with `appendfsync always`, that can be killed, restarted and frozen."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.folder = folder
        self.process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def start(self) -> None:
        safe = "--appendonly yes --appendfsync always --maxmemory-policy noeviction --save".split() + [""]
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), *safe],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    if await self.ask([["PING"]]) == ["PONG"]:
                        return
                except OSError:
                    pass
                await asyncio.sleep(0.01)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def ask(self, commands: list[list[str]]) -> list[Any]:
        """Sends commands all at once and reads their replies."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        try:
            for words in commands:
                parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
                writer.write((f"*{len(words)}\r\n" + "".join(parts)).encode())
            return [await reply(reader) for _ in commands]
        except asyncio.IncompleteReadError as end:
            raise OSError("Redis has gone") from end
        finally:
            writer.close()


async def reply(reader: asyncio.StreamReader) -> Any:
    line = (await reader.readuntil(b"\r\n"))[:-2].decode()
    kind, rest = line[0], line[1:]
    if kind == "$":
        return None if rest == "-1" else (await reader.readexactly(int(rest) + 2))[:-2].decode("utf-8", "replace")
    if kind == "*":
        return [await reply(reader) for _ in range(max(0, int(rest)))]
    if kind == "-":
        raise OSError(rest)
    return rest
