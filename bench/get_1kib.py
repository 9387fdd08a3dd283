#!/usr/bin/env python3
"""CPU time per passed-through GET of 1 KiB, beside nginx, in one interleaved run.

    python3 bench/get_1kib.py --gateway target/release/export-gateway [--rounds 5] [--seconds 5] [--tls]

Each proxy is alone on core 0; load (wrk) and upstream (nginx) share core 1. The gateway has metrics, access log and all
checks on; nginx is measured bare, and doing the same work (JSON access log, forwarded headers, request id). CPU time is
the kernel's account of the proxy's processes. With --tls clients speak TLS 1.3 to all proxies, which have one
certificate; connections are kept. Needs nginx and wrk (Debian packages), openssl for --tls, and two cores.
"""

import argparse
import os
import re
import shutil
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.request import urlopen

TICK = os.sysconf("SC_CLK_TCK")

NGINX = """
worker_processes 1; daemon off; pid {name}.pid; error_log {name}.err; worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 300s;
  client_body_temp_path {name}-b; proxy_temp_path {name}-p; fastcgi_temp_path {name}-f; uwsgi_temp_path {name}-u; scgi_temp_path {name}-s;
  {http}
}}
"""
UPSTREAM = "server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ default_type text/plain; return 200 {body}; }} }}"
BARE = """
  upstream up {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port} backlog=4096 {tls}; location / {{
    proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; {work} }} }}
"""
NGINX_TLS = "ssl; ssl_certificate tls.pem; ssl_certificate_key tls.key; ssl_protocols TLSv1.3"
GATEWAY_TLS = 'tls = { certificate = "tls.pem", key = "tls.key" }'
SAME_WORK = """
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Host $host; proxy_set_header X-Request-Id $request_id; proxy_set_header Host $host;
"""
LOG = """log_format j escape=json '{{"time":"$time_iso8601","id":"$request_id","client":"$remote_addr","method":"$request_method",'
  '"path":"$uri","status":$status,"bytes":$body_bytes_sent,"seconds":$request_time,"upstream":"$upstream_addr"}}';
  access_log {name}.log j buffer=64k flush=1s;"""
GATEWAY = """
[server]
listen = "127.0.0.1:{port}"
threads = 1
{tls}
[admin]
listen = "127.0.0.1:0"
[backends.legacy]
url = "http://127.0.0.1:{upstream}"
[backends.workers]
url = "http://127.0.0.1:9"
"""


def start(command, core, folder, out=None):
    output = open(folder / out, "wb") if out else subprocess.DEVNULL
    return subprocess.Popen(["taskset", "-c", str(core), *command], cwd=folder, stdout=output, stderr=subprocess.DEVNULL)


def ready(port, scheme="http"):
    anybody = ssl._create_unverified_context()
    for _ in range(100):
        try:
            return urlopen(f"{scheme}://127.0.0.1:{port}/", timeout=1, context=anybody).read()
        except OSError:
            time.sleep(0.05)
    sys.exit(f"nothing answers on port {port}")


def cpu_seconds(root):
    """User and system time of a process and its children that live."""
    total = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(entry.name) == root or int(fields[1]) == root:
            total += int(fields[11]) + int(fields[12])
    return total / TICK


def load(port, connections, seconds, scheme):
    target = f"{scheme}://127.0.0.1:{port}/kib"
    command = ["taskset", "-c", "1", "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", target]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    requests = int(re.search(r"(\d+) requests in", text)[1])
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)", text)
    return requests, failed[0] if failed else ""


def nginx(folder, name, http):
    (folder / f"{name}.conf").write_text(NGINX.format(name=name, http=http))
    return [shutil.which("nginx") or "/usr/sbin/nginx", "-p", str(folder), "-e", f"{name}.err", "-c", f"{name}.conf"]


def certificate(folder):
    """A certificate that nobody checks, of the kind that public authorities issue by default: ECDSA, P-256."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=bench"
    command += " -addext subjectAltName=DNS:bench.example -keyout tls.key -out tls.pem"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--port", type=int, default=7900)
    parser.add_argument("--tls", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="gateway-bench-"))
    base = options.port
    scheme = "https" if options.tls else "http"
    nginx_tls, gateway_tls = (NGINX_TLS, GATEWAY_TLS) if options.tls else ("", "")
    if options.tls:
        certificate(folder)
    up = base
    children, peers = [], {}
    try:
        body = "x" * 1024
        children.append(start(nginx(folder, "up", UPSTREAM.format(port=up, body=body)), 1, folder))
        bare = BARE.format(port=base + 1, upstream=up, work="", tls=nginx_tls)
        peers["nginx bare"] = (start(nginx(folder, "bare", bare), 0, folder), base + 1)
        same = LOG.format(name="same") + BARE.format(
            port=base + 2, upstream=up, work=SAME_WORK, tls=nginx_tls
        )
        peers["nginx, same work"] = (start(nginx(folder, "same", same), 0, folder), base + 2)
        (folder / "gateway.toml").write_text(GATEWAY.format(port=base + 3, upstream=up, tls=gateway_tls))
        binary = str(Path(options.gateway).absolute())
        peers["export-gateway"] = (
            start([binary, "--config", str(folder / "gateway.toml")], 0, folder, "gateway.log"),
            base + 3,
        )
        children += [child for child, _ in peers.values()]
        ready(up)
        for _, port in peers.values():
            ready(port, scheme)
            load(port, options.connections, 1, scheme)
        costs = {name: [] for name in peers}
        for round_number in range(options.rounds):
            for name, (child, port) in peers.items():
                before = cpu_seconds(child.pid)
                requests, failed = load(port, options.connections, options.seconds, scheme)
                cost = (cpu_seconds(child.pid) - before) / requests * 1e6
                costs[name].append(cost)
                print(f"round {round_number + 1}  {name:18} {requests:8} requests  {cost:6.2f} µs {failed}", flush=True)
        print(f"\n| proxy | median µs of CPU per request | span | x nginx bare |\n| --- | --- | --- | --- |")
        reference = statistics.median(costs["nginx bare"])
        for name, values in costs.items():
            median = statistics.median(values)
            print(f"| {name} | {median:.2f} | {min(values):.2f}–{max(values):.2f} | {median / reference:.2f} |")
    finally:
        for child in children:
            child.send_signal(signal.SIGTERM)
        for child in children:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
