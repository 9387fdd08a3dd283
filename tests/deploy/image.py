"""The image: built from the Dockerfile as users have it, run with few rights, and exercised."""

import os
import re
import shutil
import socket
import statistics
import time
from pathlib import Path

from stage import HERE, ROOT, Failure, Stage, ask, eventually, free_port, is_ready, need, run, swap_config
from upgrade import Parts

TAG = "localhost/export-gateway:deploy-test"
LARGEST = 30 * 1024 * 1024
READY, LIVE = 0.3, 1.0
RIGHTS = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--memory=128m", "--pids-limit=64"]
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


def environment(stage: Stage) -> None:
    """Containers of this run alone: their storage lies in the scratch folder."""
    folder = stage.scratch / "containers"
    folder.mkdir(exist_ok=True)
    (folder / "containers.conf").write_text(
        '[containers]\ndefault_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]\n'
        '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "runc"\n'
    )
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\nrunroot = "{folder}/run"\ngraphroot = "{folder}/graph"\n'
    )
    os.environ.update(
        STORAGE_DRIVER="overlay",
        BUILDAH_ISOLATION="chroot",
        CONTAINERS_CONF=str(folder / "containers.conf"),
        CONTAINERS_STORAGE_CONF=str(folder / "storage.conf"),
    )


def build_with(*options: object, limit: float = 3600) -> None:
    """Builds offline from the registry's point of view: `FROM` finds what `base_images.sh` has made."""
    toolchain = run("rustc", "--print", "sysroot").stdout.strip()
    mounts = ["-v", f"{toolchain}:/usr/local/rustup:ro", "-v", f"{CA_BUNDLE}:{CA_BUNDLE}:ro"]
    run("buildah", "build", "--format", "docker", "--pull=never", "--layers", *mounts, *options, limit=limit)


def build(stage: Stage) -> Path:
    """Builds the image; returns the binary in it."""
    began = time.monotonic()
    rust = re.search(r"^ARG RUST_IMAGE=(\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[1]
    roots = stage.scratch / "roots"
    roots.mkdir(exist_ok=True)
    run(HERE / "base_images.sh", roots, rust, limit=1800)
    stage.seconds("image", "base images, on a machine without a registry", time.monotonic() - began)
    began = time.monotonic()
    build_with("-t", TAG, ROOT)
    stage.seconds("image", "build", time.monotonic() - began)
    began = time.monotonic()
    build_with("-t", TAG, ROOT)
    stage.seconds("image", "build once more, nothing changed", time.monotonic() - began)
    size = int(run("podman", "image", "inspect", TAG, "--format", "{{.Size}}").stdout.split()[-1])
    stage.row("image", "size", f"{size / 1024 / 1024:.1f} MiB  (≤ 30 MiB)")
    need(size <= LARGEST, "the image is too large")
    return binary_of(stage, TAG, "export-gateway")


def binary_of(stage: Stage, tag: str, name: str) -> Path:
    container = run("podman", "create", "--network=none", tag).stdout.split()[-1]
    try:
        run("podman", "cp", f"{container}:/usr/bin/export-gateway", stage.scratch / name)
    finally:
        run("podman", "rm", container)
    return stage.scratch / name


def rebuild(stage: Stage, binary: Path) -> None:
    """The same source makes the same bytes, in another folder and from nothing."""
    began = time.monotonic()
    build_with("--no-cache", "-t", f"{TAG}-again", ROOT)
    stage.seconds("image", "build from nothing, to compare", time.monotonic() - began)
    same = binary_of(stage, f"{TAG}-again", "again").read_bytes() == binary.read_bytes()
    stage.row("image", "the same bytes again", "yes" if same else "NO")
    need(same, "the build is not reproducible")


class Container:
    """A running gateway on the host's network; removed at the end."""

    def __init__(self, stage: Stage, config: Path, *options: object) -> None:
        self.began = time.monotonic()
        inside = "/etc/export-gateway/gateway.toml" if config.is_file() else "/etc/export-gateway"
        mount = ["-v", f"{config}:{inside}:ro"]
        self.id = run("podman", "run", "-d", "--network=host", *RIGHTS, *mount, *options, TAG).stdout.split()[-1]
        stage.undo.callback(run, "podman", "rm", "-f", "-t", "1", self.id, check=False)

    def log(self) -> str:
        done = run("podman", "logs", self.id)
        return done.stdout + done.stderr

    def stop(self) -> int:
        run("podman", "stop", "-t", "30", self.id, limit=60)
        return self.code()

    def code(self) -> int:
        state = run("podman", "inspect", self.id, "--format", "{{.State.Running}} {{.State.ExitCode}}").stdout.split()
        need(state[-2] == "false", "the container still runs")
        return int(state[-1])

    def ended(self) -> int:
        def over():
            return run("podman", "inspect", self.id, "--format", "{{.State.Running}}").stdout.split()[-1] == "false"

        eventually("the end of the container", over, 20, 0.1)
        return self.code()


def folder_with(stage: Stage, name: str, text: str | None) -> Path:
    folder = stage.folder(name)
    folder.chmod(0o755)
    if text is not None:
        swap_config(folder, text)
    return folder


def state_folder(stage: Stage, owner: int) -> Path:
    folder = stage.folder(f"state-{owner}")
    folder.chmod(0o700)
    os.chown(folder, owner, owner)
    return folder


def exercise(stage: Stage) -> None:
    parts = Parts(stage)
    ports = free_port(), free_port()
    text = parts.settings("/var/lib/export-gateway/jobs.db", *ports, percent=0)
    config = folder_with(stage, "config", text)
    times = []
    for _ in range(5):
        state = state_folder(stage, 65532)
        container = Container(stage, config, "-v", f"{state}:/var/lib/export-gateway")
        eventually("readiness", lambda: is_ready(ports[1]))
        times.append(time.monotonic() - container.began)
        need(container.stop() == 0, "exit code after stop")
    stage.row("image", "from `run` to ready, five times, middle", f"{statistics.median(times) * 1000:.0f} ms")
    stage.seconds("image", "from `run` to ready, the best of five", min(times), READY)

    container = Container(stage, config, "-v", f"{state}:/var/lib/export-gateway")
    eventually("readiness", lambda: is_ready(ports[1]))
    run("podman", "healthcheck", "run", container.id)
    status = ask(ports[1], "/readyz")[2]
    need('"ready"' in status, status)
    need(run("podman", "exec", container.id, "/usr/bin/export-gateway", "healthcheck").stdout == "ready\n", "healthcheck")
    user = run("podman", "exec", container.id, "/usr/bin/export-gateway", "--version").stdout
    stage.row("image", "runs read-only, without capabilities, as 65532; version", user.split()[-1])
    edits(stage, config, text, ports[1])
    began = time.monotonic()
    need(container.stop() == 0, "exit code after stop")
    stage.seconds("image", "`stop` (drain_delay 2 s)", time.monotonic() - began)
    mounted_alone(stage, text, ports)
    mistakes(stage, text, ports)
    degraded(stage, parts, config, ports)


def edits(stage: Stage, config: Path, text: str, admin: int) -> None:
    """A ConfigMap's swap in the mounted folder is live within a second."""
    slowest = 0.0
    for percent in [5, 25, 0, 50]:
        swap_config(config, text.replace("percent = 0", f"percent = {percent}"))
        began = time.monotonic()
        wanted = f'export_gateway_rollout_percent{{type="overlay"}} {percent}'
        eventually(f"percent = {percent} is live", lambda: wanted in ask(admin, "/metrics")[2], 5)
        slowest = max(slowest, time.monotonic() - began)
    swap_config(config, text)
    eventually("percent = 0 is live", lambda: 'percent{type="overlay"} 0' in ask(admin, "/metrics")[2], 5)
    stage.seconds("image", "a ConfigMap-like swap in the mounted folder is live", slowest, LIVE)


def mounted_alone(stage: Stage, text: str, ports: tuple[int, int]) -> None:
    """A file that is mounted without its folder is warned of, in the log and by `check`: an edit would not be seen."""
    file = stage.folder("alone") / "gateway.toml"
    file.write_text(text)
    file.chmod(0o644)
    container, words = Container(stage, file), "mounted as a single file"
    eventually("readiness", lambda: is_ready(ports[1]))
    checked = run("podman", "exec", container.id, "/usr/bin/export-gateway", "check")
    need(words in container.log() and words in checked.stdout + checked.stderr, f"{container.log()}\n{checked}")
    stage.row("image", "a single-file mount: the log and `check`", "warn")
    need(container.stop() == 0, "exit code after stop")


def mistakes(stage: Stage, text: str, ports: tuple[int, int]) -> None:
    """What cannot start says why in one sentence, and with which code."""
    unreadable = folder_with(stage, "unreadable", None)
    (unreadable / "gateway.toml").write_text(text)
    (unreadable / "gateway.toml").chmod(0o600)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = text.replace(f":{ports[0]}", f":{taken.getsockname()[1]}")
        cases = [
            ("no file", folder_with(stage, "missing", None), 64, "no such file or directory"),
            ("a file that may not be read", unreadable, 64, "ermission denied"),
            ("a mistake in the file", folder_with(stage, "typo", text.replace("percent =", "percnt =")), 64, "percnt"),
            ("a port that is taken", folder_with(stage, "busy", busy), 1, "Address already in use"),
        ]
        for what, folder, code, words in cases:
            container = Container(stage, folder)
            got, log = container.ended(), container.log()
            need(got == code and words in log, f"{what}: exit code {got}, {log[-600:]}")
            need("panicked" not in log and "backtrace" not in log, f"{what}: {log[-600:]}")
            stage.row("image", f"{what}: exit code", str(code))


def degraded(stage: Stage, parts: Parts, config: Path, ports: tuple[int, int]) -> None:
    """A state folder that cannot be written: it serves, legacy takes what has no key, and /readyz says so."""
    for what, options in [
        ("no state folder (read-only root)", []),
        ("a state folder of somebody else's", ["-v", f"{state_folder(stage, 0)}:/var/lib/export-gateway"]),
    ]:
        container = Container(stage, config, *options)
        eventually("readiness", lambda: is_ready(ports[1]))
        answer = ask(ports[1], "/readyz")[2]
        need("degraded" in answer and "store_unavailable" in answer, f"{what}: {answer}")
        need(ask(ports[0], "/api/echo/x")[0] == 200, f"{what}: pass-through")
        body = {"project_id": 12, "highlight_regions": [], "effect_type": "brightness_boost"}
        status, headers, _ = ask(ports[0], "/api/export/overlay/start", "POST", body, {"X-User-Id": "ann"})
        owner = {name.lower(): value for name, value in headers.items()}.get("x-export-backend")
        need((status, owner) == (200, "legacy"), f"{what}: a start gets {status} from {owner}")
        stage.row("image", f"{what}: serves, /readyz says", "degraded: store_unavailable")
        need(container.stop() == 0, "exit code after stop")


def tidy(stage: Stage) -> None:
    graph = stage.scratch / "containers"
    if graph.exists():
        # Else a run without images would remove the machine's own containers.
        environment(stage)
        run("podman", "rm", "-fa", "-t", "1", check=False)
        run("buildah", "rm", "-a", check=False)
        run("podman", "unmount", "-a", check=False)
        for mounted in [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]:
            if mounted.startswith(str(graph)):
                run("umount", "-l", mounted, check=False)
        shutil.rmtree(graph, ignore_errors=True)
        if graph.exists():
            raise Failure(f"{graph} could not be removed")
