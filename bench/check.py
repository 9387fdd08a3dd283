#!/usr/bin/env python3
"""A guard against getting slower that no clock disturbs: instructions and allocations per request, and bytes per idle WebSocket,
beside bench/baseline.json.

    make bench-check                       fails where a figure is more than 5 % above the committed one
    make bench-check ARGS=--accept         writes the figures down instead

A plain release build with the system's allocator runs under valgrind: callgrind counts the instructions of a GET of 1 KiB, of a
start and of a status poll (the whole process, the kernel left out), DHAT the allocations and the bytes. Compilers differ: figures of
another rustc than the committed ones' are compared all the same, and it is said.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peers
import scenarios
import setup
import where
from load import Broken, Load
from peers import Proxy

BASELINE = setup.HERE / "baseline.json"
BAND = 0.05
WARM, COUNTED = 500, 2000
CONNECTIONS = 8


def build() -> str:
    """The binary whose allocations valgrind sees, in a folder of its own."""
    folder = setup.TARGET / "check"
    command = ["cargo", "build", "--release", "--locked", "--quiet", "--features", "system-allocator"]
    subprocess.run(command, cwd=setup.HERE.parent, env={**os.environ, "CARGO_TARGET_DIR": str(folder)}, check=True)
    return str(folder / "release/export-gateway")


def specs(proxy: Proxy) -> dict[str, dict[str, Any]]:
    """The scenarios of the benchmark, on a fixed number of requests."""
    jobs = [scenarios.start_one(proxy) for _ in range(16)]
    polls = {"paths": [f"/api/export/status/{job}" for job in jobs], "headers": scenarios.USER}
    return {
        "S1 GET 1 KiB": scenarios.KIB,
        "S5 start": {**scenarios.START, "expect": {"contains": '"websocket_url"'}},
        "S6 status poll": {**polls, "expect": {"contains": '"progress":50'}},
    }


def control(proxy: Proxy, order: str) -> None:
    subprocess.run(["callgrind_control", order, str(proxy.pid)], check=True, capture_output=True)


class Check:
    def __init__(self, binary: str, folder: Path, is_told_where: bool) -> None:
        self.binary, self.folder, self.is_told_where = binary, folder, is_told_where
        upstream, self.load_tool = setup.crate("tools", "upstream", "load")
        self.port, self.runs = peers.free_port(), 0
        self.core = max(os.sched_getaffinity(0))
        self.upstream = peers.start([upstream, str(self.port), "x"], self.core, folder, "upstream")

    def run(self, name: str, *valgrind: str) -> Proxy:
        """Starts the gateway under valgrind."""
        place = self.folder / name
        proxy = Proxy("export-gateway", "", place, min(os.sched_getaffinity(0)), {"plain"}, {"UPSTREAM": self.port})
        scenarios.working_video(proxy)
        proxy.names["BINARY"] = self.binary
        peers.gateway(proxy, setup.find("valgrind"), *valgrind)
        proxy.wait_ready()
        return proxy

    def ask(self, proxy: Proxy, spec: dict[str, Any], requests: int, around: Any = None) -> None:
        whole = {"connections": CONNECTIONS, "requests": requests, "seconds": 600, **spec, "address": proxy.address}
        with Load(self.load_tool, self.core, whole) as load:
            if around:
                around("on")
            seen = load.go()
            if around:
                around("off")
        if seen.failed or seen.requests != requests:
            raise Broken(f"{seen.requests} of {requests} answers were right: {seen.failures}")

    def instructions(self) -> dict[str, int]:
        """Instructions per request, by scenario."""
        counted = {}
        options = ["--tool=callgrind", "--instr-atstart=no", "--callgrind-out-file=callgrind.%p"]
        proxy = self.run("callgrind", *options)
        try:
            for name, spec in specs(proxy).items():
                self.ask(proxy, spec, WARM)
                control(proxy, "--zero")
                self.ask(proxy, spec, COUNTED, lambda to: control(proxy, f"--instr={to}"))
                control(proxy, "--dump")
                dump = max(proxy.folder.glob("callgrind.*"), key=lambda path: path.stat().st_mtime_ns)
                total = re.search(r"^totals: (\d+)", dump.read_text(errors="replace"), re.M)
                counted[name] = round(int(total[1]) / COUNTED)
                print(f"  {name:16} {counted[name]:9,} instructions a request", flush=True)
                if self.is_told_where:
                    print(where.table(where.instructions(dump), COUNTED), flush=True)
        finally:
            proxy.end()
        return counted

    def allocations(self) -> dict[str, float]:
        """Allocations per request, by scenario: what a run with more requests has more than one with fewer."""
        counted = {}
        for name in ("S1 GET 1 KiB", "S5 start", "S6 status poll"):
            few, many = (
                self.dhat(r"Total:\s+[\d,]+ bytes in ([\d,]+) blocks", requests, lambda proxy: specs(proxy)[name])
                for requests in (WARM, WARM + COUNTED)
            )
            counted[name] = round((many - few) / COUNTED, 2)
            print(f"  {name:16} {counted[name]:9.2f} allocations a request", flush=True)
        return counted

    def bytes(self) -> dict[str, int]:
        """Bytes that an idle WebSocket keeps, allocator's overhead left out: what more of them have more at the peak."""
        idle = {"websocket": True, "paths": ["/ws/1"], "expect": {"contains": ""}, "at_once": 4, "seconds": 1}
        few, many = (
            self.dhat(r"At t-gmax:\s+([\d,]+) bytes", 0, lambda _: {**idle, "connections": count}) for count in (100, 600)
        )
        kept = round((many - few) / 500)
        print(f"  S4 WebSocket     {kept:9,} bytes kept", flush=True)
        return {"S4 idle WebSocket": kept}

    def dhat(self, figure: str, requests: int, spec: Callable[[Proxy], dict[str, Any]]) -> int:
        """A figure that DHAT prints at the end of a run."""
        self.runs += 1
        proxy = self.run(f"dhat-{self.runs}", "--tool=dhat", "--dhat-out-file=dhat.json")
        try:
            self.ask(proxy, spec(proxy), requests)
        finally:
            proxy.end()
        said = (proxy.folder / "output").read_text(errors="replace")
        found = re.search(figure, said)
        if not found:
            raise Broken(f"DHAT gave no figure:\n{said[-2000:]}")
        return int(found[1].replace(",", ""))


def compare(now: dict[str, Any], then: dict[str, Any]) -> bool:
    """Prints both, and says whether all is within the band."""
    if now["rustc"] != then["rustc"]:
        print(f"the committed figures are of {then['rustc']}, these of {now['rustc']}")
    is_good = True
    print("\n| per request or WebSocket | now | committed | change |\n| --- | --- | --- | --- |")
    for kind in ("instructions", "allocations", "bytes"):
        for name, figure in now[kind].items():
            old = then[kind][name]
            change = figure / old - 1
            verdict = " **too many**" if change > BAND else " (fewer: --accept writes it down)" if change < -BAND else ""
            print(f"| {name}, {kind} | {figure:,} | {old:,} | {change:+.1%}{verdict} |")
            is_good &= change <= BAND
    return is_good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accept", action="store_true", help="writes the figures to bench/baseline.json")
    parser.add_argument("--where", action="store_true", help="says which crates the instructions are of, too")
    options = parser.parse_args()
    setup.debian("valgrind")
    folder, check = Path(tempfile.mkdtemp(prefix="gateway-check-")), None
    try:
        check = Check(build(), folder, options.where)
        rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
        now = {"rustc": rustc, "instructions": check.instructions(), "allocations": check.allocations()}
        now["bytes"] = check.bytes()
        if options.accept:
            BASELINE.write_text(json.dumps(now, indent=1) + "\n")
            print(f"written to {BASELINE}")
            return 0
        return 0 if compare(now, json.loads(BASELINE.read_text())) else 1
    except Broken as problem:
        print(problem, file=sys.stderr)
        return 1
    finally:
        if check:
            peers.end(check.upstream)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
