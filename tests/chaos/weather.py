"""What befalls all connections at once for a while: backends that are gone, a circuit that is open, a store that is away."""

import asyncio
import random
import signal
import sqlite3
from collections import Counter, defaultdict
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from parts import get
from replicas import until
from starts import Segment, Start

if TYPE_CHECKING:
    from run import Run


@dataclass
class StoreReport:
    """A store that was away: what the log said of it, and what clients got meanwhile."""

    times: int = 0
    said: Counter[str] = field(default_factory=Counter)
    got: Counter[str] = field(default_factory=Counter)


class Weather:
    def __init__(self, run: "Run") -> None:
        self.run, self.name = run, ""
        self.dice = random.Random(f"{run.options.seed}-weather")
        self.stores: dict[str, StoreReport] = defaultdict(StoreReport)
        self.seconds: dict[str, list[float]] = defaultdict(list)  # Starts on legacy: at once, and by an open circuit.

    async def over(self, segment: Segment) -> None:
        """Sends a segment's starts out in its weather."""
        self.name = segment.weather
        workers, legacy = self.run.to_workers, self.run.to_legacy
        match segment.weather:
            case "":
                await self.run.send_out(segment.starts)
            case "workers refuse":
                await self.broken(segment, workers.refuse(), workers.pass_on)
            case "workers black-hole":
                await self.broken(segment, workers.black_hole(), workers.pass_on)
            case "legacy refuses":
                await self.broken(segment, legacy.refuse(), legacy.pass_on)
            case "legacy black-holes":
                await self.broken(segment, legacy.black_hole(), legacy.pass_on)
            case "both refuse":
                await workers.refuse()
                await self.broken(segment, legacy.refuse(), legacy.pass_on)
                await workers.pass_on()
            case "connection closed as it is used again":
                workers.close_after = (0, 0.003)
                await self.run.send_out(segment.starts)
                workers.close_after = None
            case "circuit open":
                await self.open_circuit(segment)
            case _:
                await self.store_away(segment)
        self.name = ""

    async def broken(self, segment: Segment, begin, end) -> None:
        await begin
        # The switch may have been thrown a moment ago: nobody is sent out before workers are in use again.
        self.run.file.edit(switch="true")
        await self.run.send_out(segment.starts)
        await end()

    async def open_circuit(self, segment: Segment) -> None:
        """Opens the circuit of every gateway, looks at what starts cost then, and closes it again."""
        run = self.run
        run.calm.clear()
        await run.to_workers.refuse()
        run.file.edit(consecutive=3, open="1500ms", switch="true")
        for number in range(len(run.replicas)):
            await self.start_until(number, "2")
        for start in segment.starts:
            beside = run.starts.make(run.starts.user("stays"))
            for one, name in ((start, "circuit open"), (beside, "legacy at once")):
                await run.send_out([one])
                self.seconds[name] += [got.seconds for got in run.ledger.got[one.number] if got.status == 200]
        run.file.edit(consecutive=1_000_000, open="200ms")
        await run.to_workers.pass_on()
        for number in range(len(run.replicas)):
            await self.start_until(number, "0")
        run.calm.set()

    async def start_until(self, number: int, state: str) -> None:
        """Starts exports at one gateway until its circuit is open (`2`) or closed (`0`)."""
        run, replica = self.run, self.run.replicas[number]
        await replica.ready.wait()

        async def there() -> bool:
            user = run.starts.user("moved")
            start: Start = run.starts.make(user, trouble="circuit open" if state == "2" else "circuit closing")
            start.replica = number
            await run.send_out([start])
            return await self.circuit(number) == state

        await until(f"circuit state {state}", there)

    async def circuit(self, number: int) -> str:
        host, port = self.run.replicas[number].admin
        text = (await get(f"http://{host}:{port}", "/metrics")).decode()
        line = next((line for line in text.splitlines() if line.startswith("export_gateway_circuit_state{")), " 0")
        return line.rsplit(" ", 1)[1]

    async def store_away(self, segment: Segment) -> None:
        """Nobody is killed meanwhile: what a gateway owes the store is in its memory alone."""
        run, report = self.run, self.stores[segment.weather]
        run.calm.clear()
        for replica in run.replicas:
            await replica.ready.wait()
        run.file.edit(switch="true")
        marks = [len(replica.events) for replica in run.replicas]
        async with self.trouble(segment.weather):
            await run.send_out(segment.starts)
        for replica in run.replicas:

            async def well(replica=replica) -> bool:
                return not await replica.reasons() & {"store_unavailable", "owners_not_stored"}

            await until("the store is well again and nothing is owed", well)
        report.times += 1
        for replica, mark in zip(run.replicas, marks):
            report.said += replica.said(mark)
        for start in segment.starts:
            for got in run.ledger.got[start.number]:
                report.got[f"{got.status or 'none'} {got.code or got.backend}".strip()] += 1
        run.calm.set()

    @asynccontextmanager
    async def trouble(self, name: str):
        """Begins within the first moments of the block, in the midst of starts, and is over after it."""
        task = asyncio.create_task(getattr(self, name.replace(" ", "_").lower())())
        try:
            yield
        finally:
            await task

    async def store_locked(self) -> None:
        await asyncio.sleep(self.dice.uniform(0, 0.05))
        database = sqlite3.connect(self.run.folder / "jobs.db", isolation_level=None, timeout=5)
        database.execute("BEGIN IMMEDIATE")
        await asyncio.sleep(1.5)
        database.execute("ROLLBACK")
        database.close()

    async def redis_killed_and_restarted(self) -> None:
        await asyncio.sleep(self.dice.uniform(0, 0.05))
        self.run.redis.kill()
        await asyncio.sleep(1.0)
        await self.run.redis.start()

    async def redis_frozen(self) -> None:
        await asyncio.sleep(self.dice.uniform(0, 0.05))
        self.run.redis.signal(signal.SIGSTOP)
        await asyncio.sleep(2.5)
        self.run.redis.signal(signal.SIGCONT)

    async def redis_connections_cut(self) -> None:
        for _ in range(5):
            await asyncio.sleep(self.dice.uniform(0, 0.05))
            await self.run.redis.ask([["CLIENT", "KILL", "TYPE", "normal"]])

