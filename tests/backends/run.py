#!/usr/bin/env python3
"""Starts one real part: `run.py {legacy|workers|runpod} [--port N] [--data DIR] [--runpod-url URL] …`.

When the part serves, one line `{"ready": true, "url": …, "pid": …}` goes to standard output. The part ends on
SIGTERM and when standard input closes, so that it never outlives whoever started it (`--stay`: it does not look at
its input).
"""

import argparse
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

HERE = Path(__file__).resolve().parent
PARTS = Path(os.environ.get("EXPORT_GATEWAY_PARTS") or HERE.parent.parent / ".parts").absolute()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["legacy", "workers", "runpod"])
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 in a container")
    parser.add_argument("--data", help="folder of the part's data; default: a temporary one")
    parser.add_argument("--runpod-url", default="http://127.0.0.1:8001")
    parser.add_argument("--seconds", default="3", help="runpod: how long a job takes")
    parser.add_argument("--idempotent", action="store_true", help="workers: honour Idempotency-Key")
    parser.add_argument("--poll-ms", default="250", help="workers: how often a job asks RunPod")
    parser.add_argument("--stay", action="store_true", help="do not end when standard input closes")
    return parser.parse_args()


def become_python_part(options: argparse.Namespace) -> None:
    """This process becomes the part: nothing stays between it and whoever started it."""
    python = PARTS / "venv" / "bin" / "python"
    if options.part == "legacy" and not options.data:
        options.data = tempfile.mkdtemp(prefix="export-gateway-legacy-")
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE),
        "HOST": options.host,
        "PORT": str(options.port),
        "STAY": "1" if options.stay else "0",
        "LEGACY_DATA": options.data or "",
        "RUNPOD_URL": options.runpod_url,
        "RUNPOD_SECONDS": options.seconds,
    }
    os.execve(python, [str(python), str(HERE / options.part / "app.py")], environment)


def die_with_parent() -> None:
    # Linux: workerd does not look at its input, so the kernel ends it when this process is killed.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def run_workers(options: argparse.Namespace) -> int:
    disk = Path(options.data or tempfile.mkdtemp(prefix="export-gateway-workers-"))
    disk.mkdir(parents=True, exist_ok=True)
    read, write = os.pipe()
    child = subprocess.Popen(
        [
            PARTS / "workerd",
            "serve",
            HERE / "workers" / "config.capnp",
            f"--socket-addr=http={options.host}:{options.port}",
            f"--directory-path=do-disk={disk}",
            f"--control-fd={write}",
        ],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        pass_fds=[write],
        preexec_fn=die_with_parent,
        env={
            **os.environ,
            "RUNPOD_URL": options.runpod_url,
            "POLL_MS": options.poll_ms,
            "IDEMPOTENT": "1" if options.idempotent else "0",
        },
    )
    os.close(write)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    signal.signal(signal.SIGINT, lambda *_: child.terminate())

    def end_with_stdin() -> None:
        while os.read(0, 4096):
            pass
        child.kill()

    if not options.stay:
        threading.Thread(target=end_with_stdin, daemon=True).start()
    with os.fdopen(read) as events:
        for line in events:
            event = json.loads(line)
            if event.get("event") == "listen" and event.get("socket") == "http":
                url = f"http://127.0.0.1:{event['port']}"
                print(json.dumps({"ready": True, "url": url, "pid": child.pid}), flush=True)
                break
    code = child.wait()
    return 0 if code in (0, -signal.SIGTERM, -signal.SIGKILL) else abs(code)


def main() -> int:
    options = arguments()
    if not (PARTS / "stamp").exists():
        print(f"the parts are not set up: run {HERE / 'setup.sh'}", file=sys.stderr)
        return 1
    if options.part == "workers":
        return run_workers(options)
    become_python_part(options)


if __name__ == "__main__":
    sys.exit(main())
