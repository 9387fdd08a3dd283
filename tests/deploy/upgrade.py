"""Nobody is turned away: an upgrade through passed sockets, and two replicas restarted in turn, both under load."""

import asyncio
import json
import os
import signal
import subprocess
import time
from pathlib import Path

from load import Clients, Seen, under_load
from stage import HERE, ROOT, Stage, ask, end, eventually, free_port, is_ready, need, run

RATE, SOCKETS = 300, 20


class Parts:
    """The real backends on this machine."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        runpod = self.start("runpod", "--seconds", "2")
        self.legacy_data = stage.folder("legacy")
        self.legacy = self.start("legacy", "--runpod-url", runpod, "--data", self.legacy_data)
        self.workers = self.start("workers", "--runpod-url", runpod, "--poll-ms", "1000")
        self.add_video("ann")

    def start(self, *arguments: object) -> str:
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = self.stage.start(ROOT / "tests/backends/run.py", *arguments, **options)
        return json.loads(process.stdout.readline())["url"]

    def add_video(self, user: str) -> None:
        body = {"user": user, "project_id": 12, "filename": "a.mp4"}
        port = int(self.legacy.rsplit(":", 1)[1])
        need(ask(port, "/_test/videos", "POST", body)[0] < 300, "a working video")

    def settings(self, store: str, listen: int, admin: int, percent: int = 50) -> str:
        """A gateway.toml between them."""
        return f"""
[rollout]
workers = true
percent = {percent}
always_workers = ["ann"]
[backends.legacy]
url = "{self.legacy}"
[backends.workers]
url = "{self.workers}"
[identity]
default = "a"
[exports.overlay]
params = ["highlight_regions", "effect_type"]
[exports.overlay.input_key]
url = "/api/projects/{{project_id}}/working-video"
pointer = "/filename"
key = "working_videos/{{filename}}"
missing = "No working video found"
[server]
listen = "127.0.0.1:{listen}"
drain_delay = "2s"
drain_timeout = "20s"
[admin]
listen = "127.0.0.1:{admin}"
[jobs]
store = "{store}"
# END
"""


class Gateway:
    """One gateway process with its folder."""

    def __init__(self, stage: Stage, binary: Path, parts: Parts, name: str, store: str | None = None) -> None:
        self.stage, self.binary, self.name = stage, binary, name
        self.folder = stage.folder(name)
        self.port, self.admin = free_port(), free_port()
        store = store or str(self.folder / "jobs.db")
        (self.folder / "gateway.toml").write_text(parts.settings(store, self.port, self.admin))
        self.log = (self.folder / "log").open("ab")
        self.start()

    def start(self) -> None:
        command = [self.binary, "--config", self.folder / "gateway.toml"]
        self.process = self.stage.start(*command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.log)
        eventually(f"{self.name} is ready", lambda: is_ready(self.admin))

    def events(self, message: str) -> list[dict]:
        lines = (self.folder / "log").read_text().splitlines()
        return [it for it in map(json.loads, lines) if it.get("message") == message]


def show(stage: Stage, what: str, seen: Seen) -> None:
    answered = sum(seen.answered.values())
    stage.row("upgrade", f"{what}: requests answered, failed", f"{answered}, {len(seen.failed)}")
    stage.row("upgrade", f"{what}: slowest answer", f"{seen.slowest * 1000:.0f} ms")
    closes = ", ".join(f"{code} ×{count}" for code, count in sorted(seen.closes.items()) if code != "stopped")
    stage.row("upgrade", f"{what}: {SOCKETS} WebSockets closed with", closes or "none")
    need(not seen.failed, f"{what}: {len(seen.failed)} failed, such as {seen.failed[:3]}")
    need(answered > 500, f"{what}: only {answered} requests")
    need(set(seen.closes) <= {"1001", "stopped"}, f"{what}: WebSockets {dict(seen.closes)}")


def same_jobs(seen: Seen, admin: int) -> None:
    for job in seen.jobs:
        status, _, body = ask(admin, f"/api/jobs/{job}")
        need(status == 200 and json.loads(body)["user"] == "ann", f"job {job} has no owner: {status} {body[:200]}")


def passed_sockets(stage: Stage, binary: Path, parts: Parts) -> None:
    gateway, seen = Gateway(stage, binary, parts, "upgraded"), Seen()
    old = gateway.process

    async def story() -> None:
        await asyncio.sleep(1.5)
        began = time.monotonic()
        old.send_signal(signal.SIGUSR2)
        done = "upgrade: the new process serves, this one drains"
        await asyncio.to_thread(eventually, "the new process", lambda: gateway.events(done))
        stage.seconds("upgrade", "from SIGUSR2 until the new process serves", time.monotonic() - began)
        code = await asyncio.to_thread(old.wait, 30)
        need(code == 0, f"the old process ended with {code}")
        stage.seconds("upgrade", "from SIGUSR2 until the old process has ended", time.monotonic() - began)
        await asyncio.sleep(1.5)

    try:
        asyncio.run(under_load(Clients(lambda: [gateway.port], seen), RATE, SOCKETS, story))
        show(stage, "passed sockets", seen)
        same_jobs(seen, gateway.admin)
        need(run(binary, "--config", gateway.folder / "gateway.toml", check=False).returncode == 1, "a second one started")
    finally:
        for event in gateway.events("upgrade: the new process serves, this one drains"):
            os.kill(event["pid"], signal.SIGTERM)


def replicas(stage: Stage, binary: Path, parts: Parts) -> None:
    """Two gateways on one Redis; clients go where /readyz says ready, as behind a load balancer."""
    port, folder = free_port(), stage.folder("redis")
    options = ["--port", port, "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "yes"]
    stage.start("redis-server", *options, stdout=subprocess.DEVNULL)
    both = [Gateway(stage, binary, parts, f"replica-{name}", f"redis://127.0.0.1:{port}") for name in "ab"]
    seen, ready = Seen(), {it.admin: True for it in both}

    async def look() -> None:
        def answer(admin: int) -> bool:
            try:
                return is_ready(admin)
            except OSError:
                return False

        while True:
            for it in both:
                ready[it.admin] = await asyncio.to_thread(answer, it.admin)
            await asyncio.sleep(0.2)

    async def story() -> None:
        looking = asyncio.create_task(look())
        await asyncio.sleep(1)
        for it in both:
            code = await asyncio.to_thread(end, it.process, 40)
            need(code == 0, f"{it.name} ended with {code}")
            await asyncio.to_thread(it.start)
            await asyncio.sleep(1)
        looking.cancel()

    targets = lambda: [it.port for it in both if ready[it.admin]] or [both[0].port]
    asyncio.run(under_load(Clients(targets, seen), RATE, SOCKETS, story))
    show(stage, "rolling restart", seen)
    for it in both:
        same_jobs(seen, it.admin)


def exercise(stage: Stage, binary: Path) -> None:
    run(HERE.parent / "backends" / "setup.sh", limit=600)
    parts = Parts(stage)
    passed_sockets(stage, binary, parts)
    replicas(stage, binary, parts)
