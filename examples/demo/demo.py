#!/usr/bin/env python3
"""The story of a migration, on the real gateway between real backends: `demo.py --gateway BIN [--once]`.

Each step asserts what it says. Without `--once` all stays up until Ctrl-C.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = Path(os.environ.get("EXPORT_GATEWAY_PARTS") or ROOT / ".parts").absolute()


def prepare() -> None:
    """Sets the real parts up, and goes on in their Python, which has the packages this needs."""
    if subprocess.run([ROOT / "tests/backends/setup.sh"]).returncode != 0:
        sys.exit("the real parts could not be set up")
    python = PARTS / "venv/bin/python"
    if Path(sys.prefix) != PARTS / "venv":
        os.execv(python, [str(python), *sys.argv])


if __name__ == "__main__":
    prepare()

import httpx  # noqa: E402
from stage import Broken, Stage, Voice, claim, wait_for  # noqa: E402
from websockets.exceptions import WebSocketException  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

PROJECT = 12
OVERLAY = {
    "project_id": PROJECT,
    "highlight_regions": [
        {
            "start_frame": 0,
            "end_frame": 90,
            "x": 640.5,
            "y": 360.0,
            "radius_x": 80.0,
            "radius_y": 120.0,
            "opacity": 0.3,
            "color": "#ffd400",
        }
    ],
    "effect_type": "brightness_boost",
}


class Follower(threading.Thread):
    """Follows a job over its `websocket_url`, as the frontend does."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.percent, self.messages, self.last = url, 0, 0, {}
        self.failure: str | None = None
        self.start()

    def run(self) -> None:
        try:
            with connect(self.url) as socket:
                for text in socket:
                    self.last = json.loads(text)
                    self.messages += 1
                    self.percent = self.last.get("progress", self.percent)
                    if self.last["type"] in ("complete", "error"):
                        return
        except (OSError, WebSocketException) as problem:
            self.failure = str(problem)

    def watch(self, voice: Voice, until: int) -> None:
        end = time.monotonic() + 60
        while self.percent < until and self.is_alive() and time.monotonic() < end:
            voice.progress(self.percent)
            time.sleep(0.05)
        voice.progress(self.percent)
        voice.progress_end()
        claim(self.failure is None, f"the WebSocket broke: {self.failure}")
        claim(self.percent >= until, f"the job came to {self.percent} % only, by its WebSocket")


class Story:
    def __init__(self, stage: Stage, voice: Voice) -> None:
        self.stage, self.gateway, self.voice = stage, stage.gateway, voice
        self.client = httpx.Client(base_url=self.gateway.url, timeout=20)
        self.asked = 0

    def start(self, user: str, wanted: str) -> tuple[dict, dict]:
        """Starts an export, asserts where it went, and returns the answer and its line in the access log."""
        self.asked += 1
        name = f"demo-{self.asked}"
        answer = self.client.post(
            "/api/export/overlay/start", json=OVERLAY, headers={"X-User-Id": user, "X-Request-Id": name}
        )
        claim(answer.status_code == 200, f"{user}'s export was answered {answer.status_code}: {answer.text}")
        went = answer.headers.get("x-export-backend")
        claim(went == wanted, f"{user}'s export went to {went}, not to {wanted}")
        job = answer.json()
        backend = self.stage.legacy if wanted == "legacy" else self.stage.workers
        claim(
            any(known["job_id"] == job["job_id"] for known in backend.jobs()),
            f"{wanted} does not know the job {job['job_id']}",
        )
        line = self.gateway.access_line(name)
        why = self.voice.dim(f"reason {line.get('reason')}, bucket {line.get('bucket')} of 10000")
        who, went = f"{user} starts an export", self.voice.backend(wanted) + " " * (7 - len(wanted))
        self.voice.say(f"{who:<23} →  {went}  job {job['job_id'][:8]}  {why}")
        return job, line

    def status(self, user: str, job: str, wanted: str, path: str = "/api/export/overlay/status/") -> dict:
        answer = self.client.get(path + job, headers={"X-User-Id": user})
        claim(answer.status_code == 200, f"the status of {job} was answered {answer.status_code}: {answer.text}")
        went = answer.headers.get("x-export-backend")
        claim(went == wanted, f"the status of {job} came from {went}, not from {wanted}")
        return answer.json()

    def percent(self, old: int, new: int) -> None:
        """Edits one line of the file, and measures how long it takes to be live."""
        self.voice.edit(f"percent = {old}", f"percent = {new}")
        self.gateway.edit(f"percent = {old}\n", f"percent = {new}\n")
        began = time.monotonic()
        wait_for(f"percent = {new} is live", lambda: self.gateway.percent() == new, pause=0.005)
        took = time.monotonic() - began
        claim(took < 1, f"the edit was live after {took:.2f} s only, not within one second")
        self.voice.good(f"live after {took * 1000:.0f} ms; nothing was restarted")

    def all_on_legacy(self) -> dict:
        self.voice.step("Today: every export runs on legacy")
        job, _ = self.start("maya", "legacy")
        shown = self.status("maya", job["job_id"], "legacy")
        self.voice.good(
            f"its status answers from {self.voice.backend('legacy')}: {shown['status']}, {shown['progress']} %"
        )
        return job

    def moved(self, old: dict) -> tuple[dict, Follower]:
        self.voice.step("One line moves half of the users to workers")
        self.percent(0, 50)
        job, _ = self.start("maya", "workers")
        self.start("jonas", "legacy")
        explained = self.gateway.run("explain", "--user", "jonas", "--type", "overlay")
        claim(explained.returncode == 0, f"`explain` ended with {explained.returncode}: {explained.stderr}")
        self.voice.say(self.voice.dim("$ export-gateway explain --user jonas --type overlay"))
        self.voice.quote(explained.stdout)
        claim(explained.stdout.startswith("legacy\n"), "`explain` does not agree with where jonas went")
        url = job.get("websocket_url")
        claim(url, "the answer has no websocket_url")
        self.voice.say(f"maya's browser follows {self.voice.dim(url)}")
        follower = Follower(url)
        follower.watch(self.voice, until=40)
        self.voice.good("live progress over the WebSocket")
        self.status("maya", old["job_id"], "legacy")
        self.voice.good(f"maya's earlier job still answers from {self.voice.backend('legacy')}")
        return job, follower

    def rolled_back(self, job: dict, follower: Follower) -> None:
        self.voice.step("Roll back while that job runs")
        self.percent(50, 0)
        self.start("maya", "legacy")
        shown = self.status("maya", job["job_id"], "workers")
        claim(shown["status"] == "processing", f"the job should still be running, it is {shown['status']}")
        self.voice.good(f"the running job still answers from {self.voice.backend('workers')}: {shown['progress']} %")
        follower.watch(self.voice, until=100)
        follower.join(10)
        claim(follower.last.get("type") == "complete", f"the WebSocket's last message was {follower.last}")
        shown = self.status("maya", job["job_id"], "workers", "/api/export/status/")
        claim(shown["status"] == "complete" and shown.get("output_key"), f"the job did not complete: {shown}")
        self.voice.good(f"complete, its WebSocket was never cut: {shown['output_key']}")

    def mistake(self) -> None:
        self.voice.step("A mistake in the file changes nothing")
        good = self.gateway.config.read_text()
        self.voice.edit("percent = 0", "percent = 250")
        self.gateway.edit("percent = 0\n", "percent = 250\n")
        wait_for(
            "the gateway refuses the file",
            lambda: self.gateway.metric("export_gateway_config_last_reload_successful") == 0,
        )
        checked = self.gateway.check()
        self.voice.say(self.voice.dim("$ export-gateway check"))
        said = (checked.stdout + checked.stderr).replace(f"{self.gateway.config.parent}/", "")
        self.voice.quote(said)
        claim(checked.returncode == 64, f"`check` ended with {checked.returncode}, not with 64")
        number = good.splitlines().index("percent = 0") + 1
        claim(
            "percent" in said and "250" in said and str(number) in said,
            f"`check` does not name line {number} and its key",
        )
        self.start("jonas", "legacy")
        ready = httpx.get(f"{self.gateway.admin}/readyz")
        claim(ready.status_code == 200, f"/readyz says {ready.status_code}")
        claim(ready.json()["status"] == "degraded" and f":{number}: " in ready.text, f"/readyz says {ready.text}")
        self.voice.good("refused with line and reason; the last good file serves on")
        self.voice.good(f"/readyz stays {ready.status_code}, and shows the same until a good file comes")
        self.gateway.write(good)
        wait_for(
            "the good file is back", lambda: self.gateway.metric("export_gateway_config_last_reload_successful") == 1
        )

    def workers_fail(self) -> None:
        self.voice.step("Workers go down: exports go on")
        self.percent(0, 100)
        running, _ = self.start("jonas", "workers")
        self.stage.workers_down()
        self.voice.say(f"{self.voice.backend('workers')} are gone: nothing listens there any more")
        _, line = self.start("jonas", "legacy")
        wanted = ("status", "backend", "decision", "reason", "fallback", "outcome", "user", "duration_seconds")
        self.voice.say(self.voice.dim("the access log says"))
        self.voice.quote("  ".join(f"{name}={line[name]}" for name in wanted if name in line))
        claim(line.get("backend") == "legacy", f"the access log names {line.get('backend')}")
        claim(line.get("fallback") or line.get("reason") == "circuit_open", f"the access log gives no cause: {line}")
        self.voice.good(f"fell back to {self.voice.backend('legacy')} before anything was sent")
        answer = self.client.get(f"/api/export/status/{running['job_id']}", headers={"X-User-Id": "jonas"})
        claim(
            answer.status_code == 503, f"a poll for the job on workers was answered {answer.status_code}: {answer.text}"
        )
        self.stage.workers_up()
        shown = self.status("jonas", running["job_id"], "workers")
        self.voice.good(
            f"the job that ran there: 503 while they were away, {shown['progress']} % now that they are back"
        )

    def counted(self) -> None:
        self.voice.step("The bill")
        paid = len(self.stage.runpod.jobs())
        claim(paid == self.asked, f"{self.asked} exports were asked for, RunPod was paid for {paid}")
        self.voice.good(f"{self.asked} exports asked for, {paid} GPU jobs paid: none lost, none twice")

    def tell(self) -> None:
        old = self.all_on_legacy()
        self.rolled_back(*self.moved(old))
        self.mistake()
        self.workers_fail()
        self.counted()


def addresses(stage: Stage, voice: Voice) -> None:
    gateway = stage.gateway
    shown = (
        ("gateway", gateway.url, "clients come here"),
        ("admin", gateway.admin, "for operators: /metrics, /readyz"),
        ("legacy", stage.legacy.url, "FastAPI on uvicorn"),
        ("workers", stage.workers.url, "a Durable Object per job, on workerd"),
        ("runpod", stage.runpod.url, "a simulator; the gateway never calls it"),
        ("file", str(gateway.config), "edit it: live within a second"),
    )
    width = max(len(where) for _, where, _ in shown)
    for name, where, what in shown:
        voice.say(f"{voice.bold(f'{name:8}')} {where:<{width}}  {voice.dim(what)}")


def stay(stage: Stage, voice: Voice) -> None:
    voice.line(f"\n{voice.bold('All of it stays up until Ctrl-C')}")
    addresses(stage, voice)
    body = json.dumps({"project_id": PROJECT, "highlight_regions": [], "effect_type": "brightness_boost"})
    voice.say("")
    voice.say(f"curl -i {stage.gateway.url}/api/export/overlay/start -H 'X-User-Id: maya' \\")
    voice.say(f"     -H 'Content-Type: application/json' -d '{body}'")
    try:
        while stage.gateway.process.poll() is None:
            time.sleep(0.2)
        raise Broken(f"the gateway ended with code {stage.gateway.process.returncode}")
    except KeyboardInterrupt:
        voice.line()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway", default=str(ROOT / "target/release/export-gateway"), help="the gateway's binary")
    parser.add_argument("--once", action="store_true", help="tell the story and end")
    parser.add_argument("--port", type=int, default=0, help="of the gateway; 0: any free one")
    parser.add_argument("--seconds", type=float, default=5, help="how long a GPU job takes")
    options = parser.parse_args()
    voice = Voice()
    if not os.access(options.gateway, os.X_OK):
        print(f"there is no gateway at {options.gateway}: build it first, or name it with --gateway", file=sys.stderr)
        return 1
    stage = Stage()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM ends the demo as Ctrl-C does.
    try:
        voice.line(voice.bold("export-gateway: the story of a migration") + "\n")
        stage.start(options.gateway, options.port, options.seconds)
        addresses(stage, voice)
        for user in ("maya", "jonas"):
            video = {"user": user, "project_id": PROJECT, "filename": f"{user}-final.mp4"}
            httpx.post(f"{stage.legacy.url}/_test/videos", json=video).raise_for_status()
        Story(stage, voice).tell()
        if not options.once:
            stay(stage, voice)
        stage.running.remove(stage.gateway)
        code = stage.gateway.end()
        claim(code == 0, f"the gateway ended with code {code} after SIGTERM")
        voice.line(f"\n{voice.paint('32', '✓')} the gateway finished its work and ended with code 0")
        return 0
    except Broken as problem:
        voice.progress_end()
        print(f"\n   {voice.paint('31', '✗')} {problem}", file=sys.stderr)
        return 1
    except (httpx.HTTPError, OSError) as problem:
        print(f"\n   {voice.paint('31', '✗')} {type(problem).__name__}: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        stage.end()


if __name__ == "__main__":
    sys.exit(main())
