"""The test controls around a Python part: what it has seen, and the faults it shall show.

An ASGI layer outside the application, so that the application itself stays what a real backend is.
`README.md` has the switches in a table.
"""

import asyncio
import hashlib
import json
import re
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from answers import MODES, WITHOUT_JOB, Answer

SEEN_MAX = 20_000  # Bounds memory under a benchmark; the counters go on.
BODY_MAX = 64 * 1024  # What of a request's body the list keeps.


def clean_user(value: str) -> str:
    """A user id as this backend means it: header bytes as Latin-1, only `\\w` and `-` kept, `a` if nothing is left."""
    return re.sub(r"[^\w-]", "", value) or "a"


def user_of(scope: dict) -> str:
    for name, value in scope["headers"]:
        if name == b"x-user-id":
            return clean_user(value.decode("latin-1"))
    return "a"


class Switchboard:
    """`targets` is a list of (name, method, pattern of the path); a group `type` in it is the export type."""

    def __init__(self, app: Callable, targets: list[tuple[str, str, str]], on_reset: Callable[[], None] = lambda: None):
        self.app = app
        self.targets = [(name, method, re.compile(pattern)) for name, method, pattern in targets]
        self.on_reset = on_reset
        self.clear()

    def clear(self) -> None:
        self.faults: dict[str, list[dict]] = {}
        self.seen: deque[dict] = deque(maxlen=SEEN_MAX)
        self.counts: Counter[str] = Counter()

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] == "websocket":
            self.record("websocket", "GET", scope, None)
            return await self.app(scope, receive, send)
        if scope["path"].startswith("/_test/") and (answer := await self.control(scope, receive)) is not None:
            return await deliver(answer, send)
        if scope["path"].startswith("/_test/"):
            return await self.app(scope, receive, send)

        target, export = self.match(scope["method"], scope["path"])
        if target is None:
            self.record("other", scope["method"], scope, None)
            return await self.app(scope, receive, send)

        body = await read_body(receive)
        self.record(target, scope["method"], scope, body)
        fault = self.take(target, export, user_of(scope))
        if fault is None:
            return await self.app(scope, replay(body), send)
        await self.show(fault, scope, body, send)

    def match(self, method: str, path: str) -> tuple[str | None, str | None]:
        for name, wanted, pattern in self.targets:
            if method == wanted and (found := pattern.fullmatch(path)):
                return name, found.groupdict().get("type")
        return None, None

    def record(self, target: str, method: str, scope: dict, body: bytes | None) -> None:
        self.counts[target] += 1
        raw = scope.get("test.headers") or scope["headers"]
        entry: dict[str, Any] = {
            "n": self.counts.total(),
            "at": time.time(),
            "target": target,
            "method": method,
            "path": scope.get("raw_path", scope["path"].encode()).decode("latin-1"),
            "query": scope.get("query_string", b"").decode("latin-1"),
            "http_version": scope.get("http_version"),
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in raw],
            "connection": scope.get("test.connection"),
        }
        if body is not None:
            entry["body"] = body[:BODY_MAX].decode("utf-8", "replace")
            entry["body_length"] = len(body)
            entry["body_sha256"] = hashlib.sha256(body).hexdigest()
        self.seen.append(entry)

    def take(self, target: str, export: str | None, user: str) -> dict | None:
        faults = self.faults.get(target, [])
        for fault in faults:
            if fault.get("type") not in (None, export) or fault.get("user") not in (None, user):
                continue
            if "times" in fault:
                fault["times"] -= 1
                if fault["times"] <= 0:
                    faults.remove(fault)
            return dict(fault)
        return None

    async def control(self, scope: dict, receive: Callable) -> Answer | None:
        what = (scope["method"], scope["path"])
        if what == ("POST", "/_test/faults"):
            for target, fault in json.loads(await read_body(receive)).items():
                if fault is None:
                    self.faults.pop(target, None)
                    continue
                if (mode := fault.get("mode", "pass")) not in (*MODES, "pass", "cut", "stall", "raw"):
                    return Answer.json(400, {"detail": f"no such mode: {mode}"})
                same = (fault.get("type"), fault.get("user"))
                kept = [old for old in self.faults.get(target, []) if (old.get("type"), old.get("user")) != same]
                self.faults[target] = [fault, *kept]
            return Answer.json(200, self.faults)
        if what == ("GET", "/_test/seen"):
            query = dict(part.split("=", 1) for part in scope["query_string"].decode().split("&") if "=" in part)
            seen = [entry for entry in self.seen if query.get("target", entry["target"]) == entry["target"]]
            return Answer.json(200, {"counts": self.counts, "seen": seen})
        if what == ("POST", "/_test/reset"):
            self.clear()
            self.on_reset()
            return Answer.json(200, {})
        return None

    async def show(self, fault: dict, scope: dict, body: bytes, send: Callable) -> None:
        mode = fault.get("mode", "pass")
        await asyncio.sleep(fault.get("delay_ms", 0) / 1000)
        answer = Answer(500)
        job: dict = {"job_id": "no-job-was-made", "status": "processing"}
        if fault.get("make_job", mode not in WITHOUT_JOB):
            answer = await capture(self.app, scope, body)
            job = as_object(answer) or job
        await asyncio.sleep(fault.get("delay_after_ms", 0) / 1000)

        if mode == "stall":
            await asyncio.sleep(fault.get("seconds", 3600))
        elif mode == "raw":
            await end_connection(scope, fault.get("how", "close"), fault["bytes"].encode("latin-1"))
            return
        elif mode == "cut":
            await cut(answer, fault, scope, send)
            return
        elif mode != "pass":
            answer = MODES[mode](fault, job)
        answer.headers += [(name, value) for name, value in fault.get("headers", [])]
        await deliver(answer, send)


async def read_body(receive: Callable) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return b"".join(parts)


def replay(body: bytes) -> Callable:
    sent = False

    async def receive() -> dict:
        nonlocal sent
        if sent:
            await asyncio.sleep(3600)
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def capture(app: Callable, scope: dict, body: bytes) -> Answer:
    answer, parts = Answer(500), []

    async def send(message: dict) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"]]
        elif message["type"] == "http.response.body":
            parts.append(message.get("body", b""))

    await app(scope, replay(body), send)
    answer.body = parts
    return answer


def as_object(answer: Answer) -> dict | None:
    try:
        value = json.loads(b"".join(answer.body))
    except ValueError:
        return None
    return value if isinstance(value, dict) and "job_id" in value else None


async def deliver(answer: Answer, send: Callable) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    for part in answer.body:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def cut(answer: Answer, fault: dict, scope: dict, send: Callable) -> None:
    """`{"mode": "cut", "at": "before_head" | "mid_head" | "mid_body", "how": "reset" | "close"}`: the job is made."""
    how, body = fault.get("how", "reset"), b"".join(answer.body)
    head = f"HTTP/1.1 {answer.status} OK\r\n" + "".join(f"{name}: {value}\r\n" for name, value in answer.headers)
    wire = {
        "before_head": b"",
        "mid_head": head.encode("latin-1")[: len(head) // 2],
        "mid_body": head.encode("latin-1") + b"\r\n" + body[: len(body) // 2],
    }[fault.get("at", "before_head")]
    await end_connection(scope, how, wire)


async def end_connection(scope: dict, how: str, first: bytes = b"") -> None:
    transport = scope["test.transport"]
    if first:
        transport.write(first)
        await asyncio.sleep(0.05)  # The bytes shall arrive before the end does.
    if how == "reset":
        # Lingering for 0 s makes the kernel send RST.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()
    await asyncio.sleep(0.05)
