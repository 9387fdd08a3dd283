#!/usr/bin/env python3
"""9,000 idle and slow clients beside a healthy one: what it notices, what they cost, and when all is normal again.

    python3 bench/slow_clients.py --gateway target/release/export-gateway [--clients 9000] [--seconds 15]

A third of the clients are idle; a third send a head, a byte a second, and come again when they are told 408; two ninths
send a body that way; a ninth ask for much and do not read. The healthy client is a process of its own that asks on kept
connections, a request at a time. At the end all the slow ones leave at once.

Fails if the healthy client's p99 is more than twice what it was before, if it is not normal within a second of their
going, or if a slow head is not told 408. Needs about 3 descriptors a client; runs on loopback only.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
GATEWAY = """
[server]
listen = "127.0.0.1:0"
header_timeout = "10s"
[admin]
listen = "127.0.0.1:0"
[backends.legacy]
url = "http://127.0.0.1:{backend}"
[backends.workers]
url = "http://127.0.0.1:9"
"""
BIG = 16 * 1024 * 1024


def raise_descriptors():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def answer(reader, writer):
    """One connection of the backend: much for /big, little for all else."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"POST"):
                await reader.read(BIG)
                return
            if b" /big " in head:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG)
                for _ in range(BIG // 65536):
                    writer.write(bytes(65536))
                    await writer.drain()
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n" + b"x" * 1024)
                await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


def backend(pipe):
    raise_descriptors()

    async def run():
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=4096)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def healthy(port, pipe):
    """Asks all the time; sends (when it began, how long it took) of every request when told to."""
    request = b"GET /kib HTTP/1.1\r\nHost: h\r\n\r\n"
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(4)]
    for each in sockets:
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    seen = []
    while not pipe.poll():
        for each in sockets:
            began = time.monotonic()
            each.sendall(request)
            got = b""
            while len(got) < 1024 or not got.endswith(b"x" * 1024):
                piece = each.recv(65536)
                if not piece:
                    sys.exit("the healthy client was cut off")
                got += piece
            if not got.startswith(b"HTTP/1.1 200"):
                sys.exit(f"the healthy client got {got[:40]}")
            seen.append((began, time.monotonic() - began))
        time.sleep(0.002)
    pipe.send(seen)


class Slow:
    """The slow clients, all in this process."""

    def __init__(self, port):
        self.port = port
        self.counts = {"idle": 0, "heads": 0, "bodies": 0, "readers": 0}
        self.told = {}
        self.tasks = []

    async def connect(self):
        while True:
            try:
                return await asyncio.open_connection("127.0.0.1", self.port, limit=1024)
            except OSError:
                await asyncio.sleep(0.05)

    async def idle(self):
        reader, _ = await self.connect()
        self.counts["idle"] += 1
        await reader.read()

    async def head(self):
        self.counts["heads"] += 1
        while True:
            reader, writer = await self.connect()
            for byte in b"GET /" + b"a" * 30:
                try:
                    writer.write(bytes([byte]))
                    status = await asyncio.wait_for(reader.readline(), 1)
                except TimeoutError:
                    continue
                except OSError:
                    status = b"reset"
                word = status.split(b" ")[1].decode() if b" " in status else status.decode() or "closed"
                self.told[word] = self.told.get(word, 0) + 1
                break
            writer.close()

    async def body(self):
        _, writer = await self.connect()
        writer.write(b"POST /up HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n")
        self.counts["bodies"] += 1
        while True:
            writer.write(b"b")
            await asyncio.sleep(1)

    async def reader(self):
        _, writer = await self.connect()
        writer.transport.pause_reading()
        writer.write(b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n")
        self.counts["readers"] += 1
        await asyncio.sleep(3600)

    async def open(self, count):
        kinds = [self.idle] * 3 + [self.head] * 3 + [self.body] * 2 + [self.reader]
        for number in range(count):
            self.tasks.append(asyncio.create_task(kinds[number % 9]()))
            if number % 100 == 99:
                await asyncio.sleep(0.02)
        while sum(self.counts.values()) < count:
            await asyncio.sleep(0.05)


def events(log):
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def address(log, message):
    for _ in range(200):
        for event in events(log):
            if event.get("message") == message:
                return int(event["address"].rsplit(":", 1)[1])
        time.sleep(0.05)
    sys.exit(f"the gateway did not start: {log.read_text()}")


def rss_kib(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def quantiles(seen, start, end):
    took = sorted(took for began, took in seen if start <= began < end)
    if len(took) < 20:
        return None
    return statistics.median(took), took[len(took) * 99 // 100], len(took)


def slow_process(options, port, pipe):
    """Runs the slow clients in a process of its own: its end is theirs."""
    raise_descriptors()

    async def run():
        slow = Slow(port)
        pipe.recv()
        await slow.open(options.clients)
        pipe.send("open")
        while not pipe.poll():
            await asyncio.sleep(0.1)
        pipe.send((slow.counts, slow.told))
        # All at once, without a word.
        os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(run())


def start(target, *arguments):
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=target, args=(*arguments, theirs), daemon=True)
    process.start()
    return process, ours


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway", required=True)
    parser.add_argument("--clients", type=int, default=9000)
    parser.add_argument("--seconds", type=int, default=15)
    options = parser.parse_args()
    raise_descriptors()
    folder = Path(tempfile.mkdtemp(prefix="gateway-slow-"))
    backend_process, pipe = start(backend)
    (folder / "gateway.toml").write_text(GATEWAY.format(backend=pipe.recv()))
    log = folder / "gateway.log"
    binary = str(Path(options.gateway).absolute())
    with open(log, "wb") as errors:
        gateway = subprocess.Popen(
            [binary, "--config", str(folder / "gateway.toml")], cwd=folder, stdout=subprocess.DEVNULL, stderr=errors
        )
    failed = []
    try:
        port = address(log, "listening")
        healthy_process, healthy_pipe = start(healthy, port)
        slow, slow_pipe = start(slow_process, options, port)
        time.sleep(2)
        marks, cpu = [time.monotonic()], [cpu_seconds(gateway.pid)]
        rest = rss_kib(gateway.pid)

        def mark():
            marks.append(time.monotonic())
            cpu.append(cpu_seconds(gateway.pid))

        time.sleep(options.seconds)
        mark()
        slow_pipe.send("go")
        slow_pipe.recv()
        mark()
        time.sleep(options.seconds)
        held = rss_kib(gateway.pid)
        mark()
        slow_pipe.send("leave")
        counts, told = slow_pipe.recv()
        slow.join()
        mark()
        gone = marks[-1]
        time.sleep(options.seconds)
        mark()
        healthy_pipe.send("stop")
        seen = healthy_pipe.recv()
        phases = ["before", "while they come", "while they stay", "while they leave", "after"]
        print(f"{options.clients} slow clients: {counts}; heads were told {told}\n")
        print("| phase | seconds | requests | p50 ms | p99 ms | gateway CPU, cores |\n| --- | --- | --- | --- | --- | --- |")
        found = {}
        for number, phase in enumerate(phases):
            start_at, end_at = marks[number], marks[number + 1]
            got = quantiles(seen, start_at, end_at)
            load = (cpu[number + 1] - cpu[number]) / (end_at - start_at)
            if got:
                found[phase] = got
                p50, p99, count = got
                print(f"| {phase} | {end_at - start_at:.1f} | {count} | {p50 * 1e3:.2f} | {p99 * 1e3:.2f} | {load:.2f} |")
        before, during = found["before"][1], found["while they stay"][1]
        windows = [(at / 4, quantiles(seen, gone + at / 4, gone + at / 4 + 0.25)) for at in range(40)]
        normal = next((at for at, got in windows if got and got[1] <= 2 * before), None)
        print(f"\np99 while they stay: {during / before:.2f} × before; normal again {normal} s after their going")
        print(f"RSS: {rest} KiB before, {held} KiB while they stay: {(held - rest) / options.clients:.2f} KiB a connection")
        failed += ["p99 is more than twice what it was"] if during > 2 * before else []
        failed += ["not normal within a second"] if normal is None or normal > 1 else []
        failed += [f"heads were told {told}, not 408 alone"] if set(told) != {"408"} else []
        healthy_process.join(5)
    finally:
        gateway.terminate()
        gateway.wait()
        for process in (backend_process,):
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)
    if failed:
        sys.exit("; ".join(failed))


if __name__ == "__main__":
    main()
