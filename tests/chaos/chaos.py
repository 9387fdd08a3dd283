#!/usr/bin/env python3
"""Real gateways between real backends, with a middleman that breaks the network, while gateways are killed and the file
is edited; then jobs are counted at both backends and owners in the store.

`chaos.py --gateway target/release/export-gateway [--seed N] [--starts N] [--kills N] [--replicas N]
[--store sqlite|redis] [--idempotent]` prints a table in Markdown and ends with 1 if anything was lost, started twice or
looked whole when it was cut. The same seed makes the same starts, faults, weather, kills and edits in the same order;
what meets what within a millisecond is up to the machine.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path

from parts import Broken
from run import Run
from table import print_table


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway", required=True, help="the binary")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--starts", type=int, default=10_000, help="starts that meet a fault")
    parser.add_argument("--kills", type=int, default=200, help="kill -9 of a random gateway")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--store", choices=["sqlite", "redis"], default="sqlite")
    parser.add_argument("--idempotent", action="store_true", help="a Worker that honours keys, and is asked once more")
    parser.add_argument("--keep", action="store_true", help="keep the folder with files and logs")
    options = parser.parse_args()
    if options.replicas > 1 and options.store == "sqlite":
        parser.error("several replicas share a Redis")
    return options


async def play(options: argparse.Namespace, folder: Path) -> bool:
    run = Run(options, folder)
    began = time.monotonic()
    try:
        await run.set_up()
        await run.play()
        book = await run.count()
    finally:
        await run.end()
    return print_table(run, book, time.monotonic() - began)


def main() -> int:
    options = arguments()
    folder = Path(tempfile.mkdtemp(prefix="export-gateway-chaos-"))
    is_good = False
    try:
        is_good = asyncio.run(play(options, folder))
    except Broken as broken:
        print(broken, file=sys.stderr)
    finally:
        if options.keep or not is_good:
            print(f"files and logs: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
