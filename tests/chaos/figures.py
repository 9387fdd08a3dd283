#!/usr/bin/env python3
"""Figures that the documentation states: a rolling restart under load, and a start on a store with many records.

`figures.py --gateway BINARY [--records N] [--seconds N]` ends with 1 if a request fails or a user moves in the restart,
or if the start with N records (default 1,000,000) takes 2 s or 64 MiB more than an empty one.
"""

import argparse
import asyncio
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter, defaultdict
from pathlib import Path

from clients import Clients, Got
from parts import Broken, Part, Redis, get_json
from replicas import File, Replica, until, users
from run import make_videos
from starts import Start

READY_EVERY = 0.05  # Seconds between two looks of the balancer at `/readyz`.
STARTUP, MEMORY = 2.0, 64 << 20


class Balancer(Clients):
    """Round-robin over the gateways that were ready when it looked last, as a load balancer does; it tries nothing twice."""

    def __init__(self, replicas: list[Replica], data: Path) -> None:
        super().__init__(replicas, data, 1)
        self.ready: list[Replica] = list(replicas)
        self.turn = 0

    async def watch(self) -> None:
        while True:
            self.ready = [replica for replica in self.replicas if await self.is_ready(replica)]
            await asyncio.sleep(READY_EVERY)

    @staticmethod
    async def is_ready(replica: Replica) -> bool:
        try:
            value = await get_json(f"http://{replica.admin[0]}:{replica.admin[1]}", "/readyz")
        except Exception:  # Whatever is wrong with it: it is not ready.
            return False
        return value["status"] in ("ready", "degraded")

    async def exchange(self, request: bytes, method: str, only: int | None = None, start: int | None = None) -> Got:
        self.turn += 1
        replica = self.ready[self.turn % len(self.ready)]
        number, began = self.replicas.index(replica), time.monotonic()
        try:
            reader, writer = await asyncio.open_connection(*replica.address, limit=1 << 20)
        except OSError:
            return self.got(None, False, number, 0)
        try:
            answer, begun = await self.answer(reader, writer, request, method)
            return self.got(answer, begun, number, time.monotonic() - began)
        finally:
            writer.close()


async def rolling_restart(binary: str, folder: Path, seconds: float) -> bool:
    """SIGTERM and a new start for one of three gateways after the other, while clients start and poll."""
    folder.mkdir()
    data = folder / "legacy"
    runpod = Part("runpod", "--seconds", "2")
    legacy = Part("legacy", "--runpod-url", runpod.url, "--data", str(data))
    workers = Part("workers", "--runpod-url", runpod.url, "--data", str(folder / "workers"), "--poll-ms", "3000")
    await make_videos(legacy, data, 50_000)
    redis = Redis(folder / "redis")
    await redis.start()
    file = File(
        folder,
        random.Random(1),
        legacy=legacy.url,
        workers=workers.url,
        data=str(data),
        store=redis.url,
        percent=50,
        # Nobody is left with a balancer that has not looked yet.
        server='drain_delay = "500ms"',
        legacy_start="20s",
        workers_start="20s",
    )
    replicas = [Replica(binary, file, folder, f"replica-{number}") for number in range(3)]
    for replica in replicas:
        await replica.start()
    balancer = Balancer(replicas, data)
    got, homes, stop = Counter(), defaultdict(set), asyncio.Event()
    watching = asyncio.create_task(balancer.watch())
    clients = [asyncio.create_task(client(balancer, number, got, homes, stop)) for number in range(12)]
    restarts = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end or restarts < len(replicas):
        replica = replicas[restarts % len(replicas)]
        code = await replica.end()
        if code != 0:
            got[f"exit code {code}"] += 1
        await replica.start()
        await until("the balancer has seen it", lambda replica=replica: is_in(replica, balancer))
        restarts += 1
    stop.set()
    await asyncio.gather(*clients)
    watching.cancel()
    for replica in replicas:
        await replica.end()
    redis.kill()
    for part in (workers, legacy, runpod):
        part.end()
    failed = {what: count for what, count in got.items() if not what.startswith("200")}
    moved = [user for user, home in homes.items() if len(home) > 1]
    of = Counter(home for homes_of in homes.values() for home in homes_of)
    print(f"- {restarts} restarts of three gateways on one Redis, under {sum(got.values())} requests of 12 clients:")
    print(f"  failed requests {sum(failed.values())} {failed or ''}, moved users {len(moved)} of {len(homes)} ({dict(of)})")
    return not failed and not moved


async def is_in(replica: Replica, balancer: Balancer) -> bool:
    return replica in balancer.ready


async def client(balancer: Balancer, number: int, got: Counter, homes: dict, stop: asyncio.Event) -> None:
    """Starts an export and polls it a few times, by turns as one of 40 users."""
    turn, everybody = 0, users("canary")
    while not stop.is_set():
        start = Start(number * 4_000 + turn, everybody[(number + turn * 12) % len(everybody)], "overlay", turn % 2 == 0)
        turn += 1
        (answer,) = await balancer.start(start, tries=1)
        got[f"{answer.status} start {answer.code}"] += 1
        if answer.job is None:
            continue
        homes[start.user].add(answer.backend)
        for typed in (True, False, True):
            poll = await balancer.poll(start, answer.job, typed)
            is_right = poll.status == 200 and poll.backend == answer.backend
            got[f"{poll.status if is_right else -poll.status} poll {poll.code}"] += 1


async def many_records(binary: str, folder: Path, records: int) -> bool:
    """Starts on an empty store, then on one with many records that the gateway's own `jobs copy` has written."""
    folder.mkdir()
    file = File(folder, random.Random(1), legacy="http://127.0.0.1:9", workers="http://127.0.0.1:9", data="d", store="jobs.db")
    replica = Replica(binary, file, folder, "gateway")
    empty = await measure(replica)
    await replica.end()
    source = folder / "source.db"
    (folder / "jobs.db").rename(source)
    began = time.monotonic()
    fill(source, records)
    print(f"- {records:,} records laid out in {time.monotonic() - began:.0f} s; ", end="", flush=True)
    began = time.monotonic()
    command = [binary, "jobs", "copy", "--from", str(source), "--to", str(folder / "jobs.db"), "--config", str(file.path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    took, size = time.monotonic() - began, (folder / "jobs.db").stat().st_size >> 20
    print(f"`jobs copy` wrote them in {took:.0f} s ({records / took:,.0f}/s, {size} MiB)")
    full = await measure(replica)
    await replica.end()
    cold = await measure(replica, drop_cache=folder / "jobs.db")
    await replica.end()
    for name, (seconds, memory) in {"empty": empty, f"{records:,} records": full, "the same, file not cached": cold}.items():
        print(f"- start on a store, {name}: serving after {seconds * 1000:.0f} ms, RSS {memory / (1 << 20):.1f} MiB")
    return all(seconds < STARTUP and memory < empty[1] + MEMORY for seconds, memory in (full, cold))


async def measure(replica: Replica, drop_cache: Path | None = None) -> tuple[float, int]:
    """Seconds from the start of the process until it serves, and its memory when it has been ready for a moment."""
    if drop_cache is not None:
        # As far as an unprivileged process may: clean pages of this one file.
        subprocess.run(["dd", f"if={drop_cache}", "iflag=nocache", "count=0"], check=True, stderr=subprocess.DEVNULL)
    began = time.monotonic()
    await replica.start()
    took = time.monotonic() - began

    async def ready() -> bool:
        return "store_unavailable" not in await replica.reasons()

    await until("the store is open", ready)
    took = max(took, time.monotonic() - began)
    await asyncio.sleep(1)
    status = Path(f"/proc/{replica.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return took, int(line.split()[1]) * 1024


def fill(source: Path, records: int) -> None:
    """Lays records out as a week of starts has them: most over, some open."""
    dice, now = random.Random(1), int(time.time() * 1000)
    week = 7 * 86_400_000

    def job(number: int) -> tuple:
        state = "open" if number % 200 == 0 else "complete"
        started = now - week + 3_600_000 + number * (week - 7_200_000) // records
        backend = ("legacy", "workers")[number % 2]
        return str(uuid.UUID(int=dice.getrandbits(128))), backend, "overlay", f"user-{number % 50_000}", started, state

    database = sqlite3.connect(source)
    database.executemany(
        "INSERT INTO jobs (id, backend, export, user, started_ms, state) VALUES (?, ?, ?, ?, ?, ?)",
        (job(number) for number in range(records)),
    )
    database.commit()
    database.close()


async def all_figures(options: argparse.Namespace, folder: Path) -> bool:
    results = [await rolling_restart(options.gateway, folder / "restart", options.seconds)]
    results.append(await many_records(options.gateway, folder / "records", options.records))
    return all(results)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway", required=True, help="the binary")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=30, help="of the rolling restart")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="export-gateway-figures-") as folder:
            return 0 if asyncio.run(all_figures(options, Path(folder))) else 1
    except Broken as broken:
        print(broken, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
