"""A piece of network in front of a backend: it passes on, or shows the fault that a request is to meet.

Requests are known by their `X-Request-Id`, which the gateway passes on: `s-NUMBER-TRY` is a start, `p-NUMBER-FAULT` a
poll or a download. Each request goes to the backend on a connection of its own, so that nothing is ever sent twice here.
"""

import asyncio
import random
import socket
from collections import Counter
from collections.abc import Callable

from faults import POLLS, Exchange, Fault
from wire import Cut, Message, read_answer, read_body, read_head, reset

FILLERS = 4  # Connections that fill the queue of a listener which never accepts.


class Middleman:
    """`fault_of(number)` names the fault that a start meets the first time it comes here."""

    def __init__(self, name: str, backend: str, seed: str, fault_of: Callable[[int], Fault | None]) -> None:
        self.name, self.dice = name, random.Random(f"{seed}-{name}")
        self.backend = (backend.split("//")[1].split(":")[0], int(backend.rsplit(":", 1)[1]))
        self.fault_of = fault_of
        self.fired: dict[int, Fault] = {}  # Starts that have met their fault.
        self.seen: Counter[int] = Counter()  # How often each start came here.
        self.connections: set[asyncio.StreamWriter] = set()
        self.close_after: tuple[float, float] | None = None  # Every connection ends so soon after its answer.
        self.server: asyncio.Server | None = None
        self.hole: list[socket.socket] = []
        # Bound and never listening: it keeps the port ours while nobody listens there.
        self.keeper = socket.socket()
        self.keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.keeper.bind(("127.0.0.1", 0))
        self.port: int = self.keeper.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def pass_on(self) -> None:
        """Serves as a network that is whole."""
        await self.refuse()
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", self.port, limit=1 << 16, backlog=512)

    async def refuse(self) -> None:
        """Nobody listens, and what was open is reset."""
        for held in self.hole:
            held.close()
        self.hole = []
        if self.server is not None:
            self.server.close()
            self.server = None
        for writer in list(self.connections):
            reset(writer)

    async def black_hole(self) -> None:
        """Connecting gets no answer at all: the listener's queue is full."""
        await self.refuse()
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(0)
        self.hole = [listener]
        for _ in range(FILLERS):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self.hole.append(filler)
        await asyncio.sleep(0.05)  # For the handshakes of those that fit.

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.add(writer)
        writer.transport.set_write_buffer_limits(0)
        try:
            while await self.exchange(reader, writer):
                if self.close_after is not None:
                    await asyncio.sleep(self.dice.uniform(*self.close_after))
                    reset(writer) if self.dice.random() < 0.5 else writer.close()
                    break
        except (Cut, OSError, asyncio.CancelledError):
            pass  # The gateway has gone or was killed, or the run is over.
        finally:
            self.connections.discard(writer)
            writer.close()

    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; says whether the connection goes on."""
        request = await read_head(reader)
        fault = self.fault_for(request)
        at = Exchange(writer, None, self.dice, self.url, request.target)
        if fault is not None and fault.early:
            await fault.show(at)
            return at.open
        await read_body(reader, request, until_end=False)
        if fault is None or fault.job:
            at.answer = await self.ask(request)
        if fault is None:
            await at.whole()
        else:
            await fault.show(at)
        return at.open

    def fault_for(self, request: Message) -> Fault | None:
        kind, number, rest = ((request.get("x-request-id") or "").split("-", 2) + ["", ""])[:3]
        if kind == "p":
            return POLLS.get(rest)
        if kind != "s" or request.method != "POST":
            return None
        start = int(number)
        self.seen[start] += 1
        fault = self.fault_of(start)
        if fault is None or start in self.fired:
            return None
        self.fired[start] = fault
        return fault

    async def ask(self, request: Message) -> Message:
        reader, writer = await asyncio.open_connection(*self.backend, limit=1 << 20)
        try:
            writer.write(request.head + request.raw)
            return await read_answer(reader, request.method)
        finally:
            writer.close()
