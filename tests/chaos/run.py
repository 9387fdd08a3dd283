"""One run: what is started, how starts, weather, kills and edits go on together, and what is asked at the end."""

import argparse
import asyncio
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from clients import Clients, Got, file_bytes
from faults import POLLS, Fault
from ledger import Book, Ledger
from middleman import Middleman
from parts import Part, Redis, post_json
from replicas import USERS, File, Replica, users
from starts import FIRST_PROJECT, Start, Starts
from weather import Weather

DEADLINE = 7.5  # Seconds after which no start can be under way any more, by the time-outs of the file.
TELL_EVERY = 30  # Seconds between two lines of progress.
DOWNLOADS = [1_000, 70_000]


class Run:
    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        fair = max(40, min(160, options.starts // 20))
        self.starts = Starts(options.seed, options.store, fair)
        self.ledger = Ledger()
        self.clients_at_once = 16 * options.replicas
        self.begun = 0
        self.calm = asyncio.Event()  # Gateways may be killed, and the master switch thrown.
        self.over = False
        self.cut_by_kills = 0
        # In memory where there is such a place: the disk of the backends is not what is tested.
        memory = Path("/dev/shm")
        self.parts_folder = Path(tempfile.mkdtemp(prefix="export-gateway-chaos-", dir=memory if memory.is_dir() else None))
        self.parts: list[Part] = []
        self.middlemen: list[Middleman] = []
        self.replicas: list[Replica] = []
        self.redis: Redis | None = None

    async def set_up(self) -> None:
        options, data = self.options, self.parts_folder / "legacy"
        self.runpod = self.keep(Part("runpod", "--seconds", "0.5"))
        self.legacy = self.keep(Part("legacy", "--runpod-url", self.runpod.url, "--data", str(data)))
        more = ["--idempotent"] if options.idempotent else []
        disk = ["--data", str(self.parts_folder / "workers"), "--poll-ms", "3000"]
        self.workers = self.keep(Part("workers", "--runpod-url", self.runpod.url, *disk, *more))
        await make_videos(self.legacy, data, options.starts * 2 + 1_000)

        seed, known = str(options.seed), self.starts.by_number
        self.to_workers = Middleman("workers", self.workers.url, seed, lambda number: known[number].workers)
        self.to_legacy = Middleman("legacy", self.legacy.url, seed, lambda number: known[number].legacy)
        self.middlemen = [self.to_workers, self.to_legacy]
        for middleman in self.middlemen:
            await middleman.pass_on()
        if options.store == "redis":
            self.redis = Redis(self.folder / "redis")
            await self.redis.start()
        self.file = File(
            self.folder,
            random.Random(f"{seed}-edits"),
            legacy=self.to_legacy.url,
            workers=self.to_workers.url,
            data=str(data),
            store=self.redis.url if self.redis else "jobs.db",
            idempotent="true" if options.idempotent else "false",
        )
        for number in range(options.replicas):
            replica = Replica(options.gateway, self.file, self.folder, f"replica-{number}")
            await replica.start()
            self.replicas.append(replica)
        self.clients = Clients(self.replicas, data, options.seed)
        self.weather = Weather(self)

    def keep(self, part: Part) -> Part:
        self.parts.append(part)
        return part

    async def play(self) -> None:
        """Segments of starts until enough have met a fault, and all kills are done."""
        others = [asyncio.create_task(task) for task in (self.kill(), self.flip(), self.bystand())]
        self.calm.set()
        said = time.monotonic()
        for segment in self.starts.segments():
            await self.weather.over(segment)
            for task in others:
                if task.done() and not task.cancelled() and task.exception():
                    raise task.exception()
            if self.faulted() >= self.options.starts and others[0].done():
                break
            if time.monotonic() > said + TELL_EVERY:
                said = time.monotonic()
                print(f"{self.faulted()} of {self.options.starts} starts have met a fault", file=sys.stderr, flush=True)
        self.over = True
        await asyncio.gather(*others)

    def faulted(self) -> int:
        """Starts that have met a fault: of a backend, of the weather, or of their own."""
        troubled = sum(bool(start.trouble) for start in self.starts.by_number.values() if start.number < self.begun)
        fired = self.to_workers.fired.keys() | self.to_legacy.fired.keys()
        return troubled + sum(not self.starts.by_number[number].trouble for number in fired)

    async def send_out(self, starts: list[Start]) -> None:
        """Sends starts, as many at once as there are clients, and waits for their ends."""
        left = iter(starts)

        async def client() -> None:
            for start in left:
                self.begun = max(self.begun, start.number + 1)
                await self.one(start)

        async with asyncio.TaskGroup() as clients:
            for _ in range(self.clients_at_once):
                clients.create_task(client())

    async def one(self, start: Start) -> None:
        all_got = await self.clients.start(start)
        self.ledger.note(start, all_got)
        for job, got in self.ledger.acknowledged(start, self.to_legacy.fired.get(start.number)).items():
            fault = self.clients.dice.choice(list(POLLS)) if start.number % 10 == 0 else ""
            answer = await self.clients.poll(start, job, start.number % 2 == 0, fault)
            self.ledger.poll(start, job, got.backend, answer, "right after its start")

    async def kill(self) -> None:
        """Kills gateways at random moments, spread over the whole run."""
        dice = random.Random(f"{self.options.seed}-kills")
        for number in range(self.options.kills):
            due = (number + dice.random()) * self.options.starts / self.options.kills
            victim, pause = self.replicas[dice.randrange(len(self.replicas))], dice.uniform(0, 0.05)
            while self.begun < due or not self.calm.is_set():
                await asyncio.sleep(0.005)
            await asyncio.sleep(pause)
            if not self.calm.is_set():
                await self.calm.wait()
            hit = [start for start, at in self.clients.under_way.items() if self.replicas[at] is victim]
            self.ledger.disturbed.update(hit)
            self.cut_by_kills += len(hit)
            await victim.kill()
            await victim.start()

    async def flip(self) -> None:
        """Edits the file all the time: the percentage, and now and then the master switch."""
        dice = random.Random(f"{self.options.seed}-flips")
        while not self.over:
            await asyncio.sleep(dice.uniform(0.1, 0.6))
            switch = "false" if dice.random() < 0.06 and self.calm.is_set() and not self.weather.name else "true"
            self.file.edit(percent=dice.choice([0, 25, 50, 75, 100]), switch=switch)

    async def bystand(self) -> None:
        """Downloads through the same gateways, of which some are cut."""
        dice = random.Random(f"{self.options.seed}-downloads")
        files = {size: file_bytes(size) for size in DOWNLOADS}
        while not self.over:
            size, fault = dice.choice(DOWNLOADS), dice.choice(["", *POLLS])
            got = await self.clients.download(size, fault)
            self.ledger.downloads["cut" if got.begun else str(got.status or "none")] += 1
            if got.status == 200 and got.body != files[size]:
                self.ledger.problems.append(f"a download of {size} bytes looked whole with {len(got.body)}, {fault!r}")
                self.ledger.downloads["looked whole"] += 1
            await asyncio.sleep(dice.uniform(0.02, 0.2))

    async def count(self) -> Book:
        """Asks for everything once more: open keys, all jobs at their backends, all owners in the store."""
        self.file.edit(percent=100, switch="true")
        await asyncio.sleep(DEADLINE)
        await self.each(self.ledger.open_keys(self.starts.by_number), self.ask_again)
        for replica in self.replicas:
            await replica.kill()
            await replica.start()  # Nothing is left in memory: what is known is in the store.
        book = await self.read_book()
        told = [self.starts.by_number[number] for number in sorted(self.ledger.got)]
        await self.each(told, self.poll_twice)
        return book

    async def each(self, starts: list[Start], do) -> None:
        left = iter(starts)

        async def worker() -> None:
            for start in left:
                await do(start)

        async with asyncio.TaskGroup() as workers:
            for _ in range(32):
                workers.create_task(worker())

    async def ask_again(self, start: Start) -> None:
        (got,) = await self.clients.start(start, tries=1, first=90)
        self.ledger.note(start, [got])
        if got.code == "start_in_progress":
            self.ledger.problems.append(f"start {start.number} is still under way")

    async def poll_twice(self, start: Start) -> None:
        start.replica = None
        for job, told in self.ledger.acknowledged(start, self.to_legacy.fired.get(start.number)).items():
            for typed in (False, True):
                got = await self.clients.poll(start, job, typed)
                self.ledger.poll(start, job, told.backend, got, "at the end")
                self.ledger.must_answer(start, job, got)
            if told.backend == "workers" and start.number % 20 == 0:
                await self.must_be_hidden(start, job)

    async def must_be_hidden(self, start: Start, job: str) -> None:
        got: Got = await self.clients.poll(start, job, True, user="somebody-else")
        if got.status != 404:
            self.ledger.problems.append(f"start {start.number}: job {job} is shown to another user: {got.status}")

    async def read_book(self) -> Book:
        legacy = by_start((job["project_id"], job["job_id"]) for job in await self.legacy.jobs())
        workers = by_start((job["project_id"], job["job_id"]) for job in await self.workers.jobs())
        paid = Counter(job["input"]["project_id"] - FIRST_PROJECT for job in await self.runpod.jobs())
        if self.redis is None:
            database = sqlite3.connect(f"file:{self.folder / 'jobs.db'}?mode=ro", uri=True)
            owners = {job: (backend, user) for job, backend, user in database.execute("SELECT id, backend, user FROM jobs")}
            database.close()
        else:
            jobs = sorted({job for jobs in [*legacy.values(), *workers.values()] for job in jobs})
            ask = [["HMGET", f"export-gateway:job:{job}", "backend", "user"] for job in jobs]
            owners = {job: tuple(owner) for job, owner in zip(jobs, await self.redis.ask(ask)) if owner[0] is not None}
        return Book(legacy, workers, paid, owners)

    def fired(self, number: int) -> tuple[Fault | None, Fault | None]:
        return self.to_workers.fired.get(number), self.to_legacy.fired.get(number)

    async def end(self) -> None:
        self.over = True
        for replica in self.replicas:
            if replica.ready.is_set():
                await replica.end()
        for middleman in self.middlemen:
            await middleman.refuse()
        if self.redis is not None:
            self.redis.kill()
        for part in reversed(self.parts):
            part.end()
        shutil.rmtree(self.parts_folder, ignore_errors=True)


def by_start(jobs) -> dict[int, list[str]]:
    book: dict[int, list[str]] = {}
    for project, job in jobs:
        book.setdefault(project - FIRST_PROJECT, []).append(job)
    return book


async def make_videos(legacy: Part, data: Path, count: int) -> None:
    """Every user has a working video of every project that a start may name."""
    first, *others = [user for kind in USERS for user in users(kind)]
    await post_json(legacy.url, "/_test/videos", {"user": first, "project_id": 1, "filename": "clip.mp4"})
    made = data / "user_data" / first / "database.sqlite"
    database = sqlite3.connect(made)
    rows = ((FIRST_PROJECT + number, "clip.mp4", time.time()) for number in range(count))
    database.executemany("INSERT INTO working_videos (project_id, filename, created_at) VALUES (?, ?, ?)", rows)
    database.execute("CREATE INDEX videos_of_project ON working_videos (project_id)")
    database.commit()
    database.close()
    for user in others:
        folder = data / "user_data" / user
        folder.mkdir()
        shutil.copy(made, folder / made.name)
