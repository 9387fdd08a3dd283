"""What every scenario stands on: a folder, two cores, upstreams, a budget of time, and fair rounds."""

import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import measure
import peers
import setup
from load import Broken, Load, Seen
from peers import BARE, NJS, SAME, Proxy

REFERENCE = "nginx, bare"
GATEWAY = "export-gateway"


@dataclass
class Row:
    """One proxy in one scenario: a value per round."""

    proxy: str
    values: list[float] = field(default_factory=list)
    extra: dict[str, list[float]] = field(default_factory=dict)
    foreign: list[float] = field(default_factory=list)
    failed: int = 0
    why: dict[str, int] = field(default_factory=dict)

    def note(self, seen: Seen) -> None:
        self.failed += seen.failed
        for reason, times in seen.failures.items():
            self.why[reason] = self.why.get(reason, 0) + times

    def add(self, name: str, value: float | None) -> None:
        if value is not None:
            self.extra.setdefault(name, []).append(value)

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None


@dataclass
class Result:
    """A scenario's outcome; smaller values are better everywhere."""

    key: str
    title: str
    unit: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def row(self, proxy: str) -> Row:
        found = next((row for row in self.rows if row.proxy == proxy), None)
        if found is None:
            found = Row(proxy)
            self.rows.append(found)
        return found

    def order(self, fleet: list[Proxy]) -> None:
        """Gives the table's rows the fleet's order, whatever order the rounds take."""
        for proxy in fleet:
            self.row(proxy.name)

    def ratio(self, proxy: str, reference: str) -> float | None:
        """The median of the rounds' own ratios: what disturbs a round disturbs both."""
        one, other = self.row(proxy).values, self.row(reference).values
        pairs = [a / b for a, b in zip(one, other, strict=False) if b]
        return statistics.median(pairs) if pairs else None

    def best_peer(self) -> str | None:
        rows = [row for row in self.rows if row.median is not None and not row.proxy.startswith(GATEWAY) and not row.failed]
        return min(rows, key=lambda row: row.median).proxy if rows else None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Bench:
    def __init__(self, binary: str, folder: Path, options: Any) -> None:
        self.binary, self.folder, self.options = binary, folder, options
        self.proxy_core, self.load_core = options.cores
        self.deadline = time.monotonic() + options.minutes * 60
        self.upstream_tool, self.load_tool = setup.crate("tools", "upstream", "load")
        self.upstreams: list[subprocess.Popen] = []
        self.upstream = self.serve("x")
        self.results: list[Result] = []
        self.order = random.Random(1)

    def serve(self, letter: str) -> int:
        """Starts an upstream whose 1 KiB is made of this letter; returns its port."""
        port = peers.free_port()
        command = [self.upstream_tool, str(port), letter]
        self.upstreams.append(peers.start(command, self.load_core, self.folder, f"upstream-{port}"))
        return port

    def end(self) -> None:
        for upstream in self.upstreams:
            peers.end(upstream)

    @property
    def products(self) -> list[str]:
        return self.options.peers

    def wanted(self, bare: bool = True, same: bool = True, njs: bool = False) -> list[tuple[str, str]]:
        """Products and forms, nginx bare among them: all is compared with it."""
        pairs = [("nginx", BARE)] if "nginx" in self.products else []
        for product in self.products:
            pairs += [(product, form) for form, is_wanted in ((BARE, bare), (SAME, same)) if is_wanted]
        pairs += [("nginx", NJS)] if njs and "nginx" in self.products else []
        return [*dict.fromkeys(pairs), (GATEWAY, "")]

    @contextmanager
    def fleet(self, result: Result, wanted: list[tuple[str, str]], tls: bool = False, **names: Any) -> Iterator[list[Proxy]]:
        """Runs proxies side by side; one that does not come up is left out, and the result says so. Rows get their order."""
        running: list[Proxy] = []
        names = {"UPSTREAM": self.upstream, "BINARY": self.binary, **names}
        try:
            for product, form in wanted:
                try:
                    running.append(peers.run(product, form, self.folder, self.proxy_core, tls, names))
                except (Broken, subprocess.CalledProcessError, OSError, StopIteration) as problem:
                    said = str(problem).splitlines()
                    result.notes.append(f"{product} is missing: {' '.join(said[:3])[:300]}")
                    print(f"  {problem}", file=sys.stderr)
            yield running
        finally:
            for proxy in running:
                peers.forget(proxy)

    def result(self, key: str, title: str, unit: str) -> Result:
        print(f"\n{key}  {title}", flush=True)
        self.results.append(Result(key, title, unit))
        return self.results[-1]

    def rounds(self, fleet: list[Proxy], most: int | None = None) -> Iterator[Proxy]:
        """Every proxy once a round, in a new order each time; no new round begins when the time is up."""
        for number in range(min(self.options.rounds, most or self.options.rounds)):
            if number and time.monotonic() > self.deadline:
                print("  the time is up: no more rounds here", flush=True)
                return
            yield from self.order.sample(fleet, len(fleet))

    def sample(self, row: Row, proxy: Proxy, spec: dict[str, Any]) -> tuple[Seen, float]:
        """Loads a proxy once; returns what was seen and the CPU seconds of the proxy."""
        with Load(self.load_tool, self.load_core, {"address": proxy.address, "seconds": self.options.seconds, **spec}) as load:
            window = measure.Window(proxy.pid, self.proxy_core)
            seen = load.go()
            used, foreign = window.end()
        row.note(seen)
        row.foreign.append(foreign)
        return seen, used

    def compare(
        self,
        result: Result,
        fleet: list[Proxy],
        spec: dict[str, Any] | Callable[[Proxy], dict[str, Any]],
        per_second: str = "requests/s",
        most: int | None = None,
    ) -> None:
        """Microseconds of CPU per request, of each proxy in each round."""
        result.order(fleet)
        for proxy in self.rounds(fleet, most):
            row = result.row(proxy.name)
            seen, used = self.sample(row, proxy, spec(proxy) if callable(spec) else spec)
            if seen.requests:
                row.values.append(used / seen.requests * 1e6)
                row.add(per_second, seen.requests / seen.seconds)
            self.show(result, row, f"{seen.requests} requests")

    @staticmethod
    def show(result: Result, row: Row, more: str = "") -> None:
        value = f"{row.values[-1]:9.2f}" if row.values else "        –"
        failed = f"  FAILED {row.failed} {row.why}" if row.failed else ""
        print(f"  {row.proxy:22} {value} {result.unit}  {more}{failed}", flush=True)
