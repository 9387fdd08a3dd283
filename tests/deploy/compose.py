"""deploy/compose on a real Docker engine of its own, with real parts and an export through them."""

import json
import os
import shutil
import time
from pathlib import Path

from image import READY, TAG, build_with
from stage import HERE, ROOT, Failure, Stage, eventually, need, run

NETWORK = "export-gateway-deploy"
DOCKER, COMPOSE = "/usr/bin/docker", "/usr/bin/docker-compose"
BODY = {"project_id": 12, "highlight_regions": [], "effect_type": "brightness_boost"}


class Engine:
    """A dockerd in a network namespace and folders of its own."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.folder = stage, stage.folder("docker")
        self.enter = ["nsenter", f"--net=/run/netns/{NETWORK}"]
        run("ip", "netns", "add", NETWORK)
        stage.undo.callback(run, "ip", "netns", "del", NETWORK, check=False)
        run("ip", "-n", NETWORK, "link", "set", "lo", "up")
        self.socket = f"unix://{self.folder}/socket"
        self.environment = {**os.environ, "DOCKER_HOST": self.socket, "EXPORT_GATEWAY_TAG": "deploy-test"}
        log = (self.folder / "log").open("wb")
        stage.undo.callback(self.unmount)
        options = ["--data-root", self.folder / "data", "--exec-root", self.folder / "exec", "--pidfile", self.folder / "pid"]
        stage.start(*self.enter, "dockerd", *options, "-H", self.socket, stdout=log, stderr=log)
        eventually("the Docker engine", lambda: self.docker("version", check=False).returncode == 0, 60, 0.2)

    def docker(self, *arguments: object, check: bool = True, limit: float = 300):
        return run(DOCKER, *arguments, check=check, limit=limit, env=self.environment)

    def load(self, tag: str, name: str) -> None:
        archive = self.folder / "image.tar"
        archive.unlink(missing_ok=True)
        run("buildah", "push", tag, f"docker-archive:{archive}:{name}", limit=600)
        self.docker("load", "-i", archive)
        archive.unlink()

    def unmount(self) -> None:
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            if line.split()[1].startswith(str(self.folder)):
                run("umount", "-l", line.split()[1], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, port: int, path: str, method="GET", body=None, user="ann") -> tuple[int, dict, str]:
        """A request from within the namespace, where the published ports are."""
        script = (
            "import json, sys; sys.path.insert(0, sys.argv[1]); from stage import ask;"
            "port, path, method, body, user = json.loads(sys.argv[2]);"
            "print(json.dumps(ask(port, path, method, body, {'X-User-Id': user})))"
        )
        words = json.dumps([port, path, method, body, user])
        done = run(*self.enter, "python3", "-c", script, HERE, words, check=False)
        if done.returncode:
            raise ConnectionError(done.stderr.strip().splitlines()[-1:])
        return tuple(json.loads(done.stdout))


class Project:
    """A copy of deploy/compose, so that its file can be edited."""

    def __init__(self, stage: Stage, engine: Engine) -> None:
        self.engine = engine
        tree = stage.folder("compose")
        self.folder = tree / "deploy/compose"
        shutil.copytree(ROOT / "deploy/compose", self.folder)
        # Named as build contexts; nothing is built here.
        (tree / "tests/backends").mkdir(parents=True)
        stage.undo.callback(self.compose, "--profile", "replicas", "down", "-v", "-t", "5", check=False)

    def compose(self, *arguments: object, check: bool = True):
        return run(*self.engine.enter, COMPOSE, *arguments, check=check, limit=600, env=self.engine.environment, cwd=self.folder)

    def edit(self, config: str, old: str, new: str) -> None:
        file = self.folder / config / "gateway.toml"
        text = file.read_text()
        need(old in text, f"{file} has no {old}")
        later = file.with_name(".new")
        later.write_text(text.replace(old, new))
        later.rename(file)

    def health(self, service: str) -> str:
        container = self.compose("ps", "-q", service).stdout.strip()
        return self.engine.docker("inspect", container, "--format", "{{.State.Health.Status}}").stdout.strip()


def docker_run(stage: Stage, engine: Engine) -> None:
    """How long Docker itself takes from `run` to ready: with the image's own file, a volume, and few rights."""
    rights = ["--network=host", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
    command = [DOCKER, "run", "-d", *rights, "-v", "run:/var/lib/export-gateway", "export-gateway:deploy-test"]
    script = (
        "import json, subprocess, sys, time; sys.path.insert(0, sys.argv[1]); from stage import eventually, is_ready;"
        "began = time.monotonic(); done = subprocess.run(json.loads(sys.argv[2]), capture_output=True, text=True, check=True);"
        "ran = time.monotonic(); eventually('ready', lambda: is_ready(9901));"
        "print(json.dumps([ran - began, time.monotonic() - began, done.stdout.strip()]))"
    )
    times = []
    for _ in range(5):
        done = run(*engine.enter, "python3", "-c", script, HERE, json.dumps(command), env=engine.environment)
        ran, ready, container = json.loads(done.stdout)
        times.append((ready, ran))
        engine.docker("stop", "-t", "20", container)
        code = engine.docker("inspect", container, "--format", "{{.State.ExitCode}}").stdout.strip()
        need(code == "0", f"exit code {code}")
        engine.docker("rm", "-v", container)
    ready, ran = min(times)
    stage.row("compose", "`docker run` to ready, best of five; `docker run` alone took", f"{ready * 1000:.0f} ms; {ran * 1000:.0f} ms")
    need(ready < READY, f"from `docker run` to ready in {ready} s at best, must be {READY} s")


def start(engine: Engine, port: int) -> tuple[str, str]:
    status, headers, text = engine.ask(port, "/api/export/overlay/start", "POST", BODY)
    need(status == 200, f"a start: {status} {text}")
    return {name.lower(): value for name, value in headers.items()}["x-export-backend"], json.loads(text)["job_id"]


def finished(engine: Engine, port: int, job: str) -> bool:
    status, _, text = engine.ask(port, f"/api/export/status/{job}")
    return status == 200 and json.loads(text)["status"] == "complete"


def exercise(stage: Stage) -> None:
    began = time.monotonic()
    build_with("-t", "localhost/export-gateway-parts:deploy-test", ROOT / "tests/backends")
    stage.seconds("compose", "image of the real parts", time.monotonic() - began)
    began = time.monotonic()
    engine = Engine(stage)
    engine.load(TAG, "export-gateway:deploy-test")
    engine.load("localhost/export-gateway-parts:deploy-test", "export-gateway-parts:deploy-test")
    engine.load("docker.io/library/redis:7-bookworm", "redis:7-bookworm")
    stage.seconds("compose", "a Docker engine with the images", time.monotonic() - began)
    docker_run(stage, engine)
    project = Project(stage, engine)
    try:
        journey(stage, engine, project)
    except Failure as problem:
        logs = project.compose("--profile", "replicas", "logs", "--no-color", "--tail=15", check=False).stdout
        raise Failure(f"{problem}\n{logs[-4000:]}") from problem


def journey(stage: Stage, engine: Engine, project: Project) -> None:
    began = time.monotonic()
    project.compose("up", "-d", "--no-build")
    eventually("the gateway is healthy", lambda: project.health("gateway") == "healthy", 60, 0.2)
    stage.seconds("compose", "up: four services, health-gated, all healthy", time.monotonic() - began)
    video = {"user": "ann", "project_id": 12, "filename": "a.mp4"}
    need(engine.ask(8080, "/_test/videos", "POST", video)[0] < 300, "a working video, through the gateway")
    owner, old = start(engine, 8080)
    need(owner == "legacy", f"percent = 0, but {owner}")
    project.edit("config", "percent = 0", "percent = 100")
    began = time.monotonic()
    moved = eventually("an edit in the mounted folder is live", lambda: (it := start(engine, 8080))[0] == "workers" and it, 10)
    stage.seconds("compose", "an edit through the mount: the next export is on workers", time.monotonic() - began)
    for job in [old, moved[1]]:
        eventually(f"job {job} is complete", lambda: finished(engine, 8080, job), 30, 0.2)
    stage.row("compose", "an export on legacy and one on workers", "complete")

    began = time.monotonic()
    project.compose("--profile", "replicas", "up", "-d", "--no-build")
    for name in ["gateway-a", "gateway-b"]:
        eventually(f"{name} is healthy", lambda: project.health(name) == "healthy", 60, 0.2)
    stage.seconds("compose", "profile replicas: Redis and two more gateways", time.monotonic() - began)
    project.edit("config-replicas", "percent = 0", "percent = 100")
    _, job = eventually("workers by a", lambda: (it := start(engine, 8081))[0] == "workers" and it, 10)
    eventually(f"job {job} is complete, says b", lambda: finished(engine, 8082, job), 30, 0.2)
    stage.row("compose", "started at one replica, polled at the other", "complete")

    began = time.monotonic()
    container = project.compose("ps", "-q", "gateway").stdout.strip()
    project.compose("stop", "gateway")
    code = engine.docker("inspect", container, "--format", "{{.State.ExitCode}}").stdout.strip()
    need(code == "0", f"exit code {code}")
    stage.seconds("compose", "stop: exit code 0", time.monotonic() - began)
    project.compose("start", "gateway")
    eventually("the job is known after a restart", lambda: finished(engine, 8080, moved[1]), 30, 0.2)
    stage.row("compose", "jobs after a restart", "known")
