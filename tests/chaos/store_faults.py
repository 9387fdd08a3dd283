#!/usr/bin/env python3
"""What breaks a job store, one fault after the other: what the log said, what clients got, and what was kept.

`store_faults.py --gateway BINARY` prints a table in Markdown and ends with 1 if a start went to workers that was not
recorded, or if anything was lost that the fault itself did not destroy.
"""

import argparse
import asyncio
import random
import signal
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from clients import Clients, Got
from parts import Broken, Part, Redis
from replicas import File, Replica, until
from run import make_videos
from starts import Start
from table import shown

BEFORE, DURING = 200, 16  # Jobs that are there before the fault, and starts while it lasts.
DISK = "16m"  # The disk that is filled: with room for a log of 4 MiB, at which SQLite begins it anew.
PAGE = 4_096


@dataclass
class Scene:
    """One gateway with a store of its own, and what it has started so far."""

    replica: Replica
    clients: Clients
    folder: Path
    redis: Redis | None = None
    number: int = 0
    lock: sqlite3.Connection | None = None
    victim: str = ""  # A job whose pages are overwritten.

    @property
    def store(self) -> Path:
        return self.folder / "jobs.db"

    async def starts(self, count: int) -> list[tuple[Start, Got]]:
        new = [Start(self.number + more, f"moved-{more % 20}", "overlay", more % 2 == 0) for more in range(count)]
        self.number += count
        return [(start, got) for start in new for got in await self.clients.start(start, tries=1)]

    async def kept(self, told: list[tuple[Start, Got]]) -> tuple[int, int]:
        """How many jobs are answered by their owner, and how many of those know their user still."""
        answered = hidden = 0
        for start, got in told:
            poll = await self.clients.poll(start, got.job, True)
            answered += poll.status == 200 and poll.value.get("job_id") == got.job and poll.backend == got.backend
            if got.backend == "workers":
                hidden += (await self.clients.poll(start, got.job, True, user="somebody-else")).status == 404
        return answered, hidden


@dataclass
class Case:
    name: str
    store: str
    begin: Callable[[Scene], Awaitable[None]]
    end: Callable[[Scene], Awaitable[None]]
    spared: float = 1.0  # The share of owners that the fault leaves at the least.
    before: int = BEFORE
    first: int = 0  # The number of its first start.


async def nothing(scene: Scene) -> None:
    pass


async def lock(scene: Scene) -> None:
    scene.lock = sqlite3.connect(scene.store, isolation_level=None)
    scene.lock.execute("BEGIN IMMEDIATE")


async def unlock(scene: Scene) -> None:
    scene.lock.execute("ROLLBACK")
    scene.lock.close()


async def fill(scene: Scene) -> None:
    # The gateway's own view of its folder: nobody else sees that disk.
    with open(seen_by(scene) / "filler", "wb", buffering=0) as filler:
        try:
            while filler.write(b"0" * PAGE):
                pass
        except OSError:
            pass


async def empty(scene: Scene) -> None:
    (seen_by(scene) / "filler").unlink()


def seen_by(scene: Scene) -> Path:
    return Path(f"/proc/{scene.replica.process.pid}/root{scene.folder}/disk")


async def damage(scene: Scene) -> None:
    """Overwrites every page that holds a job's id, one of the table and one of its index, while the gateway is down."""
    await scene.replica.kill()
    with sqlite3.connect(scene.store) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    pages = scene.store.read_bytes()
    with open(scene.store, "r+b") as file:
        for place in range(0, len(pages), PAGE):
            if scene.victim.encode() in pages[place : place + PAGE]:
                file.seek(place)
                file.write(b"\xff" * PAGE)
    await scene.replica.start()


async def truncate(scene: Scene) -> None:
    await scene.replica.kill()
    with sqlite3.connect(scene.store) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    with open(scene.store, "r+b") as file:
        file.truncate(scene.store.stat().st_size * 3 // 4 // PAGE * PAGE)
    await scene.replica.start()


async def remove(scene: Scene) -> None:
    for file in scene.folder.glob("jobs.db*"):
        if not file.name.endswith(".lock"):
            file.unlink()


async def redis_gone(scene: Scene) -> None:
    scene.redis.kill()


async def redis_back(scene: Scene) -> None:
    await scene.redis.start()


async def freeze(scene: Scene) -> None:
    scene.redis.signal(signal.SIGSTOP)


async def thaw(scene: Scene) -> None:
    scene.redis.signal(signal.SIGCONT)


CASES = [
    Case("locked by another process", "sqlite", lock, unlock),
    # So few that SQLite's log still grows: one that has its size needs no room.
    Case("disk full", "disk", fill, empty, before=30),
    Case("a page overwritten, then a restart", "sqlite", damage, nothing, spared=0.3),
    Case("cut to three quarters, then a restart", "sqlite", truncate, nothing, spared=0.0),
    Case("removed while in use", "sqlite", remove, nothing, spared=0.0),
    Case("Redis killed", "redis", redis_gone, redis_back),
    Case("Redis frozen", "redis", freeze, thaw),
]


async def play(case: Case, binary: str, folder: Path, data: Path, legacy: Part, workers: Part) -> bool:
    folder.mkdir()
    redis = Redis(folder / "redis") if case.store == "redis" else None
    if redis is not None:
        await redis.start()
    store = redis.url if redis else {"sqlite": "jobs.db", "disk": "disk/jobs.db"}[case.store]
    file = File(folder, random.Random(1), legacy=legacy.url, workers=workers.url, data=str(data), store=store)
    replica = Replica(binary, file, folder, "gateway")
    if case.store == "disk":
        (folder / "disk").mkdir()
        script = f'mount -t tmpfs -o size={DISK} none "$0" && exec "$@"'
        replica.wrap = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, str(folder / "disk")]
    await replica.start()
    scene = Scene(replica, Clients([replica], data, 1), folder, redis, number=case.first)
    before = told_of(await scene.starts(case.before))
    scene.victim = before[len(before) // 2][1].job
    mark = len(replica.events)
    await case.begin(scene)
    during = await scene.starts(DURING)
    await case.end(scene)

    async def well() -> bool:
        return not await replica.reasons() & {"store_unavailable", "owners_not_stored"}

    await until("the store is well again and nothing is owed", well)
    after = await scene.starts(DURING)
    said = replica.said(mark)
    # Only what is in the store is known after this; the full disk is in memory, and ends with its gateway.
    if case.store != "disk":
        await replica.kill()
        await replica.start()
    is_good = await report(case, scene, before, during, after, said)
    await replica.end()
    if redis is not None:
        redis.kill()
    return is_good


def told_of(got: list[tuple[Start, Got]]) -> list[tuple[Start, Got]]:
    return [(start, got) for start, got in got if got.job is not None]


async def report(case: Case, scene: Scene, before: list, during: list, after: list, said: Counter[str]) -> bool:
    answered, known = await scene.kept(before)
    new = told_of(during) + told_of(after)
    new_answered, new_known = await scene.kept(new)
    of_workers = sum(got.backend == "workers" for _, got in before)
    new_of_workers = sum(got.backend == "workers" for _, got in new)
    clients = Counter(f"{got.status} {got.code or got.backend}" for _, got in during)
    log = "; ".join(f"{message} ×{count}" for message, count in said.most_common(4))
    kept = f"{answered} of {len(before)} jobs answered, {known} of {of_workers} owners; {new_known} of {new_of_workers} since"
    print(f"| {case.name} | {log} | {shown(clients)} | {kept} |", flush=True)
    well_again = all(got.status == 200 for _, got in after)
    is_kept = answered == len(before) and known >= of_workers * case.spared
    return well_again and is_kept and (new_answered, new_known) == (len(new), new_of_workers)


async def all_cases(binary: str, folder: Path) -> bool:
    data = folder / "legacy"
    runpod = Part("runpod", "--seconds", "0.5")
    legacy = Part("legacy", "--runpod-url", runpod.url, "--data", str(data))
    disk = ["--data", str(folder / "workers"), "--poll-ms", "3000"]
    workers = Part("workers", "--runpod-url", runpod.url, *disk)
    await make_videos(legacy, data, 1_000 * len(CASES))
    print("| the store is | what the log said | what clients got meanwhile | what was kept |")
    print("| --- | --- | --- | --- |")
    results = []
    for number, case in enumerate(CASES):
        case.first = 1_000 * number
        results.append(await play(case, binary, folder / str(number), data, legacy, workers))
    for part in (workers, legacy, runpod):
        part.end()
    return all(results)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway", required=True, help="the binary")
    binary = parser.parse_args().gateway
    try:
        with tempfile.TemporaryDirectory(prefix="export-gateway-store-") as folder:
            return 0 if asyncio.run(all_cases(binary, Path(folder))) else 1
    except Broken as broken:
        print(broken, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
