#!/usr/bin/env python3
"""The benchmark: the gateway beside its peers, in interleaved rounds, each alone on one core; load and upstream on the other.

    make bench                                     everything, at most 30 minutes
    make bench ARGS="S1 --peers nginx"             one scenario beside one peer, a minute
    make bench ARGS="S1 S6 --rounds 9 --gateway OTHER_BINARY"

What is counted is the CPU time of the proxy's threads per request, by the scheduler's own account. Every byte of every answer
is checked. Results go to bench/results/ (results.json, table.md, plot.svg).
"""

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure
import plot
import scenarios
import setup
import table
from bench import Bench
from load import Broken
from peers import PEERS
from reloads import reloads

SCENARIOS = {
    "S1": scenarios.get_1kib,
    "S2": scenarios.post_16kib,
    "S3": scenarios.big_bodies,
    "S4": scenarios.idle_websockets,
    "S5": scenarios.starts,
    "S6": scenarios.polls,
    "S7": reloads,
    "S8": scenarios.tls,
    "S9": scenarios.connections,
    "S10": scenarios.known_jobs,
    "p99": scenarios.latency,
}

# What stands between them in docs/performance.md is written by --docs.
BEGIN, END = "<!-- results: make bench ARGS=--docs -->", "<!-- end of results -->"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; default: all")
    parser.add_argument("--gateway", default=str(setup.TARGET / "release/export-gateway"), help="the binary")
    parser.add_argument("--peers", default=",".join(PEERS), help="which, with commas between; nginx is the reference")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of load, per proxy and round")
    parser.add_argument("--minutes", type=float, default=25, help="after which no new round begins")
    parser.add_argument("--cores", default="0,1", help="the proxy's, and that of load and upstream")
    parser.add_argument("--websockets", type=int, default=5000)
    parser.add_argument("--docs", action="store_true", help="puts the tables into docs/performance.md, too")
    parser.add_argument("--results", default=str(setup.HERE / "results"), help="the folder for what comes out")
    options = parser.parse_args()
    options.scenarios = options.scenarios or list(SCENARIOS)
    options.peers = [name for name in options.peers.split(",") if name]
    options.cores = [int(core) for core in options.cores.split(",")]
    wrong = [name for name in options.scenarios if name not in SCENARIOS] + [name for name in options.peers if name not in PEERS]
    if wrong:
        parser.error(f"unknown: {', '.join(wrong)}")
    if len(options.cores) != 2 or not set(options.cores) <= os.sched_getaffinity(0):
        parser.error("two cores of this machine are needed")
    return options


def main() -> int:
    options = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    options.descriptors = min(most, 20_000)
    os.sched_setaffinity(0, {options.cores[1]})
    folder = Path(tempfile.mkdtemp(prefix="gateway-bench-"))
    bench, machine, is_whole = None, measure.machine(), True
    try:
        bench = Bench(str(Path(options.gateway).absolute()), folder, options)
        for name in options.scenarios:
            if time.monotonic() > bench.deadline:
                print(f"the time is up: {name} is left out", file=sys.stderr)
                continue
            try:
                SCENARIOS[name](bench)
            except (Broken, OSError, subprocess.SubprocessError) as problem:
                print(f"{name} broke: {problem}", file=sys.stderr)
                is_whole = False
        return 0 if is_whole else 1
    except KeyboardInterrupt:
        return 130
    finally:
        if bench:
            bench.end()
            write(bench, machine, options)
        shutil.rmtree(folder, ignore_errors=True)


def write(bench: Bench, machine: str, options: argparse.Namespace) -> None:
    out = Path(options.results)
    out.mkdir(parents=True, exist_ok=True)
    settings = f"{options.rounds} rounds of {options.seconds:g} s; median, and span from the lowest to the highest round."
    text = table.report(bench.results, machine, settings)
    (out / "table.md").write_text(text)
    (out / "plot.svg").write_text(plot.plot(bench.results))
    raw = {"machine": machine, "settings": settings, "results": [result.as_json() for result in bench.results]}
    (out / "results.json").write_text(json.dumps(raw, indent=1, ensure_ascii=False) + "\n")
    print(f"\n{text}\nwritten to {out}")
    if options.docs:
        page = setup.HERE.parent / "docs/performance.md"
        before, _, rest = page.read_text().partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}")
        shutil.copy(out / "plot.svg", page.with_suffix(".svg"))


if __name__ == "__main__":
    sys.exit(main())
