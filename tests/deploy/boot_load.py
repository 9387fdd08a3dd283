"""Runs a command in the booted container while clients are at work; says what they saw. Arguments: name, command."""

import asyncio
import sys
import time

from load import Clients, Seen, under_load

seen = Seen()


async def story() -> None:
    await asyncio.sleep(1.5)
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(*sys.argv[2:])
    code = await process.wait()
    print(f"| {sys.argv[1]}: the command took | {(time.monotonic() - began) * 1000:.0f} ms", flush=True)
    if code:
        sys.exit(f"{sys.argv[2:]}: {code}")
    await asyncio.sleep(4)


asyncio.run(under_load(Clients(lambda: [8080], seen), 300, 20, story))
answered = sum(seen.answered.values())
print(f"| {sys.argv[1]}: requests answered, failed | {answered}, {len(seen.failed)}")
print(f"| {sys.argv[1]}: slowest answer | {seen.slowest * 1000:.0f} ms")
closes = {code: count for code, count in seen.closes.items() if code != "stopped"}
print(f"| {sys.argv[1]}: WebSockets closed with | {', '.join(f'{code} ×{count}' for code, count in closes.items())}")
if seen.failed or answered < 500 or set(closes) - {"1001"}:
    sys.exit(f"failed: {seen.failed[:5]} {closes}")
