#!/usr/bin/env python3
"""9,000 idle and slow clients beside a healthy one: what it notices, what they cost, and when all is normal again.

    python3 bench/slow_clients.py --gateway target/release/export-gateway [--clients 9000] [--seconds 15]

A third of the clients are idle; a third send a head, a byte a second, and come again when they are told 408; two ninths
send a body that way; a ninth ask for much and do not read. The healthy client is a process of its own that asks on kept
connections, a request at a time. At the end all the slow ones leave at once.

Fails if the healthy client's p99 is more than twice what it was before, and more than twice what a client has beside it
that asks the backend itself (a busy machine makes both wait); if it is not normal within a second of their going; or if a
slow head is not told 408. Needs about 3 descriptors a client; runs on loopback only.
"""

import argparse
import json
import multiprocessing
import os
import resource
import select
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


NGINX = """
worker_processes 1; daemon off; pid nginx.pid; error_log nginx.err; worker_rlimit_nofile {descriptors};
events {{ worker_connections {descriptors}; }}
http {{
  access_log off; keepalive_requests 1000000000; sendfile on;
  client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  client_body_timeout 1h; client_max_body_size 0;
  server {{
    listen 127.0.0.1:{port} backlog=4096; root {folder};
    location = /kib {{ default_type text/plain; return 200 {kib}; }}
    location = /up {{ proxy_pass http://127.0.0.1:9; }}
  }}
}}
"""


def backend(folder):
    """Starts nginx: /kib is small, /big is large, and /up takes a body to its end before it does anything."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (folder / "big").write_bytes(bytes(BIG))
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    text = NGINX.format(port=port, folder=folder, kib="x" * 1024, descriptors=descriptors)
    (folder / "nginx.conf").write_text(text)
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    folder.chmod(0o755)
    return subprocess.Popen([nginx, "-p", str(folder), "-e", "nginx.err", "-c", "nginx.conf"]), port


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


SLOTS = 50
MIXTURE = ["idle"] * 3 + ["heads"] * 3 + ["bodies"] * 2 + ["readers"]


class Slow:
    """The slow clients: each that sends does it in its own fiftieth of a second, so that they come evenly."""

    def __init__(self, port, kinds):
        self.port = port
        self.mixture = [kind for kind in MIXTURE if kind in kinds]
        self.counts = {"idle": 0, "heads": 0, "bodies": 0, "readers": 0}
        self.told = {}
        self.slots = [[] for _ in range(SLOTS)]
        self.heads = {}
        self.kept = []
        self.poll = select.epoll()

    def connect(self, kind, slot):
        client = socket.socket()
        if kind == "readers":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", self.port))
        client.setblocking(False)
        if kind == "heads":
            client.send(b"GET /")
            self.heads[client.fileno()] = (client, slot)
            self.poll.register(client, select.EPOLLIN)
        elif kind == "bodies":
            client.send(b"POST /up HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n")
        elif kind == "readers":
            client.send(b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n")
        self.kept.append(client) if kind in ("idle", "readers") else self.slots[slot].append(client)

    def open(self, number):
        kind = self.mixture[number % len(self.mixture)]
        self.counts[kind] += 1
        self.connect(kind, number % SLOTS)

    def tick(self, number):
        for client in self.slots[number % SLOTS]:
            try:
                client.send(b"a")
            except OSError:
                # It has been told already: the answer is read below.
                pass

    def answers(self, until):
        """Reads what slow heads are told until it is time for the next tick; each comes again."""
        while (left := until - time.monotonic()) > 0:
            for descriptor, _ in self.poll.poll(left, 256):
                client, slot = self.heads.pop(descriptor)
                try:
                    status = client.recv(4096).split(b" ")[:2]
                except OSError:
                    status = []
                word = status[1].decode() if len(status) == 2 else "nothing"
                self.told[word] = self.told.get(word, 0) + 1
                self.poll.unregister(descriptor)
                self.slots[slot].remove(client)
                client.close()
                self.connect("heads", slot)


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
    slow, opened, number = Slow(port, options.kinds.split(",")), 0, 0
    pipe.recv()
    while opened < options.clients or not pipe.poll():
        began = time.monotonic()
        for _ in range(25 if opened < options.clients else 0):
            slow.open(opened)
            opened += 1
            if opened == options.clients:
                pipe.send("open")
                break
        slow.tick(number)
        number += 1
        slow.answers(began + 1 / SLOTS)
    pipe.send((slow.counts, slow.told))
    # All at once, without a word.
    os.kill(os.getpid(), signal.SIGKILL)


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
    parser.add_argument("--kinds", default="idle,heads,bodies,readers", help="which of the four there are")
    options = parser.parse_args()
    raise_descriptors()
    folder = Path(tempfile.mkdtemp(prefix="gateway-slow-"))
    nginx, backend_port = backend(folder)
    (folder / "gateway.toml").write_text(GATEWAY.format(backend=backend_port))
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
        # The same beside the gateway, straight to the backend: what the machine itself does to such a client.
        control_process, control_pipe = start(healthy, backend_port)
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
        control_pipe.send("stop")
        beside = control_pipe.recv()
        phases = ["before", "while they come", "while they stay", "while they leave", "after"]
        print(f"{options.clients} slow clients: {counts}; heads were told {told}\n")
        print("| phase | seconds | requests | p50 ms | p99 ms | p99 ms without the gateway | gateway CPU, cores |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        found = {}
        for number, phase in enumerate(phases):
            start_at, end_at = marks[number], marks[number + 1]
            got = quantiles(seen, start_at, end_at)
            load = (cpu[number + 1] - cpu[number]) / (end_at - start_at)
            if got:
                found[phase] = got
                p50, p99, count = got
                without = quantiles(beside, start_at, end_at)
                without = f"{without[1] * 1e3:.2f}" if without else "-"
                length = end_at - start_at
                print(f"| {phase} | {length:.1f} | {count} | {p50 * 1e3:.2f} | {p99 * 1e3:.2f} | {without} | {load:.2f} |")
        before, during = found["before"][1], found["while they stay"][1]
        windows = [(at / 4, quantiles(seen, gone + at / 4, gone + at / 4 + 0.25)) for at in range(40)]
        control_gone = quantiles(beside, gone, gone + options.seconds)[1]
        normal = next((at for at, got in windows if got and got[1] <= 2 * max(before, control_gone)), None)
        print(f"\np99 while they stay: {during / before:.2f} × before; normal again {normal} s after their going")
        print(f"RSS: {rest} KiB before, {held} KiB while they stay: {(held - rest) / options.clients:.2f} KiB a connection")
        control = quantiles(beside, marks[2], marks[3])[1]
        failed += ["p99 is more than twice what it was"] if during > 2 * max(before, control) else []
        failed += ["not normal within a second"] if normal is None or normal > 1 else []
        if counts["heads"]:
            failed += [f"heads were told {told}, not 408 alone"] if set(told) != {"408"} else []
        for process in (healthy_process, control_process):
            process.join(5)
    finally:
        gateway.terminate()
        gateway.wait()
        nginx.terminate()
        nginx.wait()
        shutil.rmtree(folder, ignore_errors=True)
    if failed:
        sys.exit("; ".join(failed))


if __name__ == "__main__":
    main()
