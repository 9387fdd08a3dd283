#!/usr/bin/env python3
"""The training run of a release build: mixed real traffic between the real parts, `train.py --gateway BIN`.

What people and browsers do with the product, errors and edits of the file included; not what the benchmark measures.
Everything is counted, not timed, so that two runs train alike. Each answer is checked: a build that misbehaves does
not become a release.
"""

import argparse
import hashlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
PARTS = Path(os.environ.get("EXPORT_GATEWAY_PARTS") or ROOT / ".parts").absolute()

if __name__ == "__main__" and Path(sys.prefix) != PARTS / "venv":
    if subprocess.run([ROOT / "tests/backends/setup.sh"]).returncode != 0:
        sys.exit("the real parts could not be set up")
    os.execv(PARTS / "venv/bin/python", [str(PARTS / "venv/bin/python"), *sys.argv])

sys.path.insert(0, str(ROOT / "examples/demo"))
import httpx  # noqa: E402
from stage import Broken, Stage, claim  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

PEOPLE = 6
VISITS = 60  # of each of them
PROJECT = 12
DEADLINE = 300  # seconds, for all of it
TYPES = ("overlay", "framing", "annotate")
BROWSER = {
    "Accept": "application/json, text/plain, */*",
    "Accept-Language": "en-GB,en;q=0.9,de;q=0.8",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
    "Origin": "https://app.reelballers.com",
    "Referer": "https://app.reelballers.com/projects/12",
    "Sec-Fetch-Mode": "cors",
    "Cookie": "session=s3cr3t; theme=dark; csrf=t0k3n",
}


def overlay(number: int) -> dict:
    region = {"start_frame": 0, "end_frame": 90, "x": 640.5, "y": 360.0, "radius_x": 80.0, "radius_y": 120.0}
    return {"project_id": PROJECT, "highlight_regions": [region] * (number % 12 + 1), "effect_type": "brightness_boost"}


class Person:
    """One user of the product, with a browser's kept-alive connection."""

    def __init__(self, url: str, name: str) -> None:
        self.host, self.name = urlsplit(url).netloc, name
        self.connection: http.client.HTTPConnection | None = None
        self.jobs: list[tuple[str, str]] = []

    def ask(self, method: str, path: str, body: bytes | dict | None = None, wanted: tuple = (200,), **headers: str):
        headers = {**BROWSER, "X-User-Id": self.name, **{key.replace("_", "-"): value for key, value in headers.items()}}
        if isinstance(body, dict):
            body, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        if self.connection is None:
            self.connection = http.client.HTTPConnection(self.host, timeout=60)
        self.connection.request(method, path, body, headers, encode_chunked="Transfer-Encoding" in headers)
        answer = self.connection.getresponse()
        data = answer.read()
        claim(answer.status in wanted, f"{method} {path} was answered {answer.status}, not {wanted}: {data[:200]}")
        return answer, data

    def leave(self) -> None:
        """Closes the tab; the next request comes on a new connection."""
        if self.connection:
            self.connection.close()
        self.connection = None

    def browses(self, number: int) -> None:
        """The pages around an export: lists, a change, pictures that the browser has, a missing one."""
        self.ask("OPTIONS", "/api/projects", Access_Control_Request_Method="POST", wanted=(200, 405))
        for path in ("/api/projects", "/api/health", "/api/echo/a%20b?q=1&q=2", "/files/700", "/files/9000"):
            self.ask("GET", path)
        _, data = self.ask("POST", "/api/projects", {"name": f"Game {number}"}, wanted=(201,))
        made = f"/api/projects/{json.loads(data)['id']}"
        self.ask("GET", made)
        self.ask("PATCH", made, {"name": f"Final {number}"})
        self.ask("DELETE", made, wanted=(204,))
        self.ask("GET", made, wanted=(404,))
        self.ask("GET", "/files/5000", If_None_Match='"generated-5000"', wanted=(304,))
        self.ask("HEAD", "/files/5000")
        if number % 10 == 0:
            self.ask("POST", "/api/login")
            self.ask("GET", "/api/status/500", wanted=(500,))
            self.ask("GET", "/nothing/here", wanted=(404,))

    def moves_video(self, number: int) -> None:
        """Seeking in a video, an upload from a form, one in chunks, a stream of events."""
        for start in range(0, 3):
            _, data = self.ask("GET", "/files/8000000", Range=f"bytes={start * 900000}-{start * 900000 + 262143}", wanted=(206,))
            claim(len(data) == 262144, f"a range of 256 KiB came with {len(data)} bytes")
        video = os.urandom(4096) * (number % 64 + 1)
        digest = hashlib.sha256(video).hexdigest()
        form = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="v.mp4"\r\n\r\n' + video + b"\r\n--edge--\r\n"
        _, data = self.ask("POST", "/api/upload", form, Content_Type="multipart/form-data; boundary=edge")
        claim(json.loads(data)["sha256"] == digest, "an upload arrived changed")
        pieces = [video[at : at + 10000] for at in range(0, len(video), 10000)]
        _, data = self.ask("PUT", "/api/sink", iter(pieces), Transfer_Encoding="chunked")
        claim(json.loads(data)["sha256"] == digest, "a chunked upload arrived changed")
        self.ask("GET", "/api/chunked?sizes=1,10,100,1000,20000")
        self.ask("GET", "/api/events?n=3&interval_ms=1")
        if number % 10 == 5:
            self.ask("GET", "/files/40000000")

    def exports(self, number: int) -> None:
        """A start of each type, now and then twice under one key, then the polls, and sometimes the live progress."""
        for kind in TYPES:
            body = overlay(number) if kind == "overlay" else {"project_id": PROJECT, "clips": [], "target_fps": 30}
            key = {"Idempotency_Key": str(uuid.uuid4())} if number % 3 == 0 else {}
            for _ in range(2 if key else 1):
                answer, data = self.ask("POST", f"/api/export/{kind}/start", body, **key)
            self.jobs.append((kind, json.loads(data)["job_id"]))
        if number % 6 == 0:
            self.watches(answer.getheader("x-export-backend"), self.jobs[-1][1])

    def polls(self) -> None:
        for kind, job in self.jobs[-3:]:
            for path in (f"/api/export/{kind}/status/{job}", f"/api/export/status/{job}") * 3:
                self.ask("GET", path)

    def watches(self, backend: str | None, job: str) -> None:
        path, ping = f"/ws/export/{job}", "ping"
        if backend == "workers":
            path, ping = f"/api/jobs/{job}/ws", '{"type":"ping"}'
        with connect(f"ws://{self.host}{path}", additional_headers={"X-User-Id": self.name}, compression=None) as tunnel:
            for _ in range(20):
                tunnel.send(ping)
                while "pong" not in tunnel.recv(timeout=20):
                    pass  # Progress that came first.

    def errs(self, number: int) -> None:
        """What goes wrong every day: bodies and ids that do not fit, somebody else's job, noise, a closed tab."""
        start = "/api/export/overlay/start"
        self.ask("POST", start, b"{no json", wanted=(400, 422), Content_Type="application/json")
        self.ask("POST", start, {"project_id": 999}, wanted=(400, 422))
        self.ask("GET", f"/api/export/status/{uuid.uuid4()}", wanted=(404,))
        if self.jobs:
            self.ask("GET", f"/api/export/{self.jobs[-1][0]}/status/{self.jobs[-1][1]}", wanted=(200, 404), X_User_Id="eve")
        self.ask("GET", "/api/export/overlay/%2e%2e/x", wanted=(400,))
        self.leave()
        for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET /files/9000000 HTTP/1.1\r\nHost: x\r\n\r\n"):
            with socket.create_connection(self.host.rsplit(":", 1), timeout=20) as raw:
                raw.sendall(noise)
                raw.recv(2048)

    def visits(self, number: int) -> None:
        self.browses(number)
        self.exports(number)
        self.polls()
        if number % 2 == 0:
            self.moves_video(number)
        if number % 5 == 4:
            self.errs(number)


class Training:
    def __init__(self, stage: Stage) -> None:
        self.stage, self.failures, self.done = stage, [], threading.Event()

    def live(self, person: Person, visits: range) -> None:
        try:
            for number in visits:
                person.visits(number)
                claim(not self.done.is_set(), f"the training took longer than {DEADLINE} s")
        except (Broken, OSError, http.client.HTTPException, TimeoutError) as problem:
            self.failures.append(f"{person.name}: {type(problem).__name__}: {problem}")
        finally:
            person.leave()

    def together(self, people: list[Person], visits: range) -> None:
        threads = [threading.Thread(target=self.live, args=(person, visits), daemon=True) for person in people]
        for thread in threads:
            thread.start()
        percents, now = (0, 10, 50, 100), 50
        end = time.monotonic() + DEADLINE
        while any(thread.is_alive() for thread in threads):
            # An edit every second, as in a rollout that somebody steers.
            new = percents[(percents.index(now) + 1) % len(percents)]
            self.stage.gateway.edit(f"percent = {now}\n", f"percent = {new}\n")
            now = new
            httpx.get(f"{self.stage.gateway.admin}/metrics").raise_for_status()
            threads[0].join(1)
            if time.monotonic() > end:
                self.done.set()
        self.stage.gateway.edit(f"percent = {now}\n", "percent = 50\n")
        if self.failures:
            raise Broken("\n".join(self.failures))

    def run(self) -> None:
        gateway = self.stage.gateway
        gateway.edit("percent = 0\n", "percent = 50\n")
        people = [Person(gateway.url, f"person-{number}") for number in range(PEOPLE)]
        for person in people:
            video = {"user": person.name, "project_id": PROJECT, "filename": f"{person.name}.mp4"}
            httpx.post(f"{self.stage.legacy.url}/_test/videos", json=video).raise_for_status()
        self.together(people, range(VISITS))
        # Workers go away: starts fall back, their jobs answer 503, and then they are back.
        self.stage.workers_down()
        for number, person in enumerate(people):
            for _ in range(3):
                person.ask("POST", "/api/export/overlay/start", overlay(number))
        self.stage.workers_up()
        self.together(people, range(3))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway", required=True, help="the instrumented binary")
    options = parser.parse_args()
    stage, began = Stage(), time.monotonic()
    try:
        stage.start(str(Path(options.gateway).absolute()), 0, 2)
        Training(stage).run()
        lines = len(stage.gateway.access)
        stage.running.remove(stage.gateway)
        code = stage.gateway.end()  # An orderly end writes the profile.
        claim(code == 0, f"the gateway ended with code {code}")
        print(f"trained on {lines} requests in {time.monotonic() - began:.0f} s")
        return 0
    except (Broken, httpx.HTTPError, OSError) as problem:
        print(f"the training broke: {problem}", file=sys.stderr)
        return 1
    finally:
        stage.end()


if __name__ == "__main__":
    sys.exit(main())
