"""Load as real clients make it: GETs over kept and fresh connections, export starts, polls, and WebSockets that stay.

A request has failed when its client would see an error. As RFC 9110 (9.2.2) has it, a GET whose kept connection ends
before a byte of the answer goes out once more, over a new one; a start is never repeated and has a connection of its own.
"""

import asyncio
import base64
import contextlib
import json
import os
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

BODY = json.dumps({"project_id": 12, "highlight_regions": [], "effect_type": "brightness_boost"}).encode()


@dataclass
class Seen:
    """What the clients saw."""

    answered: Counter = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    slowest: float = 0.0
    closes: Counter = field(default_factory=Counter)
    reconnects: int = 0
    jobs: list[str] = field(default_factory=list)


class Closed(Exception):
    """The connection ended before a byte of the answer."""


async def exchange(reader, writer, head: str, body: bytes = b"") -> tuple[int, bytes, bool]:
    """One request; returns status, body, and whether the connection stays."""
    try:
        writer.write(head.encode() + body)
        await writer.drain()
        first = await reader.readline()
    except (ConnectionError, OSError) as problem:
        raise Closed from problem
    if not first:
        raise Closed
    fields = {}
    while (line := await reader.readline()).strip():
        name, _, value = line.decode("latin-1").partition(":")
        fields[name.lower()] = value.strip().lower()
    if fields.get("transfer-encoding") == "chunked":
        content = b""
        while size := int((await reader.readline()).strip() or b"0", 16):
            content += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    else:
        content = await reader.readexactly(int(fields.get("content-length", "0")))
    return int(first.split()[1]), content, fields.get("connection") != "close"


class Clients:
    """Clients of one address, or of the ones among several that are ready, as a load balancer would have it."""

    def __init__(self, targets: Callable[[], list[int]], seen: Seen, user: str = "ann") -> None:
        self.targets, self.seen, self.user = targets, seen, user
        self.kept: dict[int, list] = {}
        self.turn = 0

    def target(self) -> int:
        ports = self.targets()
        self.turn += 1
        return ports[self.turn % len(ports)]

    async def get(self, path: str, kept: bool) -> None:
        port = self.target()
        for attempt in range(2):
            pool = self.kept.setdefault(port, [])
            fresh = not (kept and pool) or attempt == 1
            reader, writer = await asyncio.open_connection("127.0.0.1", port) if fresh else pool.pop()
            stays = "keep-alive" if kept else "close"
            try:
                head = f"GET {path} HTTP/1.1\r\nHost: h\r\nX-User-Id: {self.user}\r\nConnection: {stays}\r\n\r\n"
                status, _, open_ = await exchange(reader, writer, head)
            except Closed:
                writer.close()
                if fresh:
                    raise
                continue
            if status >= 500:
                raise ValueError(f"{path}: {status}")
            if kept and open_:
                pool.append((reader, writer))
            else:
                writer.close()
            return

    async def start(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.target())
        head = (
            "POST /api/export/overlay/start HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
            f"X-User-Id: {self.user}\r\nConnection: close\r\nContent-Length: {len(BODY)}\r\n\r\n"
        )
        status, content, _ = await exchange(reader, writer, head, BODY)
        writer.close()
        if status != 200:
            raise ValueError(f"start: {status} {content[:200]!r}")
        self.seen.jobs.append(json.loads(content)["job_id"])

    async def one(self, number: int) -> None:
        began = time.monotonic()
        kind = "start" if number % 30 == 0 else ("kept" if number % 2 else "fresh")
        try:
            await (self.start() if kind == "start" else self.get("/api/echo/x", kind == "kept"))
            self.seen.answered[kind] += 1
        except Exception as problem:  # noqa: BLE001: whatever it is, the client has seen it
            self.seen.failed.append(f"{kind}: {type(problem).__name__} {problem}")
        self.seen.slowest = max(self.seen.slowest, time.monotonic() - began)

    async def socket(self, stop: asyncio.Event) -> None:
        """A WebSocket that says ping every second, and comes back when it is told 1001."""
        first = True
        while not stop.is_set():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.target())
                key = base64.b64encode(os.urandom(16)).decode()
                writer.write(
                    f"GET /ws/export/{self.user} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                    f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
                )
                status = (await reader.readuntil(b"\r\n\r\n")).split()[1]
                if status != b"101":
                    raise ValueError(f"handshake: {status}")
            except Exception as problem:  # noqa: BLE001
                self.seen.failed.append(f"websocket: {type(problem).__name__} {problem}")
                await asyncio.sleep(0.2)
                continue
            self.seen.reconnects += not first
            first = False
            self.seen.closes[await self.talk(reader, writer, stop)] += 1
            writer.close()

    async def talk(self, reader, writer, stop: asyncio.Event) -> str:
        mask = b"\0\0\0\0"
        while not stop.is_set():
            writer.write(b"\x81\x84" + mask + b"ping")
            with contextlib.suppress(TimeoutError):
                while True:
                    async with asyncio.timeout(1):
                        try:
                            opcode, length = await reader.readexactly(2)
                            payload = await reader.readexactly(length & 0x7F)
                        except (asyncio.IncompleteReadError, ConnectionError):
                            return "cut"
                    if opcode & 0xF == 8:
                        code = struct.unpack("!H", payload[:2])[0] if payload else 1005
                        writer.write(b"\x88\x82" + mask + payload[:2])
                        return str(code)
        return "stopped"


async def under_load(clients: Clients, rate: int, sockets: int, story: Callable) -> None:
    """Sends `rate` requests a second, whatever becomes of them, for as long as `story` lasts."""
    stop = asyncio.Event()
    talkers = [asyncio.create_task(clients.socket(stop)) for _ in range(sockets)]
    told = asyncio.create_task(story())
    began, number, running = time.monotonic(), 0, set()
    while not told.done() or number < rate:
        task = asyncio.create_task(clients.one(number))
        running.add(task)
        task.add_done_callback(running.discard)
        number += 1
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
    stop.set()
    await asyncio.gather(*running, *talkers)
    await told
