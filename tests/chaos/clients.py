"""The clients: they start exports as browsers would, some with a key and patience, and read answers strictly."""

import asyncio
import json
import random
import re
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from replicas import Replica
from starts import Start
from wire import Cut, Message, read_answer

PATIENCE = 20
TRIES = 4  # Of a client with a key, before it leaves its start for later.
JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


@dataclass
class Got:
    """What a client got; `status` 0: no whole answer."""

    status: int
    backend: str
    value: dict
    body: bytes
    replica: int
    seconds: float
    begun: bool = False  # An answer had begun when the connection ended.

    @property
    def code(self) -> str:
        return str(self.value.get("code", ""))

    @property
    def job(self) -> str | None:
        """The job that the client may rely on from now on."""
        job, state = self.value.get("job_id"), self.value.get("status")
        told = 200 <= self.status < 300 or (self.status == 500 and state == "error")
        return job if told and isinstance(job, str) and JOB_ID.fullmatch(job) else None


class Clients:
    def __init__(self, replicas: list[Replica], data: Path, seed: int) -> None:
        self.replicas, self.data = replicas, data
        self.dice = random.Random(f"{seed}-clients")
        self.locks: dict[str, asyncio.Lock] = {}
        self.under_way: dict[int, int] = {}  # Starts that are with a gateway now, and with which.

    async def exchange(self, request: bytes, method: str, only: int | None = None, start: int | None = None) -> Got:
        """Asks a gateway that is up; one that refuses has got nothing, so another one is asked."""
        while True:
            replica = await self.pick(only)
            number, began = self.replicas.index(replica), time.monotonic()
            if start is not None:
                self.under_way[start] = number
            try:
                reader, writer = await asyncio.open_connection(*replica.address, limit=1 << 20)
            except OSError:
                self.under_way.pop(start, None)
                await asyncio.sleep(0.005)
                continue
            try:
                answer, begun = await self.answer(reader, writer, request, method)
                return self.got(answer, begun, number, time.monotonic() - began)
            finally:
                self.under_way.pop(start, None)
                writer.close()

    async def answer(self, reader, writer, request: bytes, method: str) -> tuple[Message | None, bool]:
        try:
            async with asyncio.timeout(PATIENCE):
                writer.write(request)
                return await read_answer(reader, method), True
        except Cut as cut:
            return None, cut.begun
        except (OSError, TimeoutError):
            return None, False

    async def pick(self, only: int | None) -> Replica:
        while True:
            replicas = self.replicas if only is None else [self.replicas[only]]
            up = [replica for replica in replicas if replica.ready.is_set()]
            if up:
                return self.dice.choice(up)
            await asyncio.sleep(0.005)  # All are down: one is being started again.

    @staticmethod
    def got(answer: Message | None, begun: bool, replica: int, seconds: float) -> Got:
        if answer is None:
            return Got(0, "", {}, b"", replica, seconds, begun)
        try:
            value = json.loads(answer.body)
        except ValueError:
            value = None
        value = value if isinstance(value, dict) else {}
        return Got(answer.status, answer.get("x-export-backend") or "", value, answer.body, replica, seconds)

    async def start(self, start: Start, tries: int = TRIES, first: int = 0) -> list[Got]:
        """Starts an export; with a key it asks again as long as it does not know what came of it."""
        all_got = []
        for attempt in range(first, first + tries):
            got = await self.once(start, attempt)
            all_got.append(got)
            if not start.keyed or not is_open(got) or got.code == "start_outcome_unknown":
                break
            if attempt + 1 < first + tries:
                await asyncio.sleep(self.dice.uniform(0.02, 0.3))
        return all_got

    async def once(self, start: Start, attempt: int) -> Got:
        request = start.request(attempt)
        if start.trouble != "input_key: database locked" or attempt > 0:
            return await self.exchange(request, "POST", start.replica, start.number)
        # Longer than a look-up may wait, shorter than legacy does.
        async with self.locks.setdefault(start.user, asyncio.Lock()):
            path = self.data / "user_data" / start.user / "database.sqlite"
            database = sqlite3.connect(path, isolation_level=None, timeout=2)
            database.execute("BEGIN EXCLUSIVE")
            asking = asyncio.create_task(self.exchange(request, "POST", start.replica, start.number))
            await asyncio.wait([asking], timeout=0.6)
            database.execute("ROLLBACK")
            database.close()
            return await asking

    async def poll(self, start: Start, job: str, typed: bool, fault: str = "", user: str | None = None) -> Got:
        kind = f"{start.export}/" if typed else ""
        lines = [
            f"GET /api/export/{kind}status/{job} HTTP/1.1",
            "Host: gateway.example",
            f"X-User-Id: {user or start.user}",
            f"X-Request-Id: p-{start.number}-{fault}",
            "Connection: close",
        ]
        return await self.exchange("\r\n".join(lines).encode() + b"\r\n\r\n", "GET", start.replica)

    async def download(self, size: int, fault: str) -> Got:
        lines = [f"GET /files/{size} HTTP/1.1", "Host: gateway.example", f"X-Request-Id: p-0-{fault}", "Connection: close"]
        return await self.exchange("\r\n".join(lines).encode() + b"\r\n\r\n", "GET")


def is_open(got: Got) -> bool:
    """Whether a client with a key has reason to ask once more."""
    return got.job is None and (got.status in (0, 409, 429) or got.status >= 500)


def file_bytes(size: int) -> bytes:
    """What legacy's `/files/SIZE` holds."""
    return bytes((place ^ place >> 8 ^ place >> 16) & 0xFF for place in range(size))
