"""What stands beside the gateway: nginx by the files that ship, HAProxy, and the Worker's check on the real runtime."""

import asyncio
import http.client
import json
import os
import shutil
import subprocess
from pathlib import Path

from load import Clients, Seen, under_load
from stage import HERE, PARTS, ROOT, TOOLS, Stage, ask, eventually, free_port, need, run
from upgrade import Gateway, Parts

BODY = {"project_id": 12, "highlight_regions": [], "effect_type": "brightness_boost"}
WRANGLER = "4.86.0"

APP = """
export class ExportJob {}
export default {
  async fetch(request) {
    const { pathname } = new URL(request.url);
    if (pathname === "/health") return Response.json({ status: "ok" });
    return Response.json({ job_id: "made-by-the-worker", status: "processing" });
  },
};
"""
CAPNP = """
using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = (
    modules = [
      (name = "index.js", esModule = embed "index.js"),
      (name = "app.js", esModule = embed "app.js"),
      (name = "gateway_signature.js", esModule = embed "gateway_signature.js"),
    ],
    compatibilityDate = "2026-01-01",
    bindings = [
      (name = "GATEWAY_HMAC", fromEnvironment = "GATEWAY_HMAC"),
      (name = "GATEWAY_KEY_ID", fromEnvironment = "GATEWAY_KEY_ID"),
    ],
  ))],
  sockets = [(name = "http", http = (), service = "main")],
);
"""


def owner_of_a_start(port: int) -> str | None:
    """Which backend made the job; `None` when none did."""
    status, headers, _ = ask(port, "/api/export/overlay/start", "POST", BODY, {"X-User-Id": "ann"})
    if status != 200:
        return None
    return {name.lower(): value for name, value in headers.items()}["x-export-backend"]


def nginx(stage: Stage, gateway: Gateway, parts: Parts) -> None:
    legacy = parts.legacy.rsplit(":", 1)[1]
    for name in ["beside", "in-front"]:
        folder, port = stage.folder(f"nginx-{name}"), free_port()
        text = (ROOT / f"deploy/nginx/{name}.conf").read_text()
        for shipped, here in [(":8000", f":{legacy}"), (":8080", f":{gateway.port}"), ("listen 8081", f"listen 127.0.0.1:{port}")]:
            text = text.replace(shipped, here)
        (folder / "site.conf").write_text(text)
        (folder / "nginx.conf").write_text("events {}\nhttp { access_log off; include site.conf; }\n")
        options = f"daemon off; master_process off; error_log {folder}/error; pid {folder}/pid;"
        stage.start("nginx", "-p", folder, "-c", folder / "nginx.conf", "-g", options)
        eventually("nginx", lambda: ask(port, "/api/echo/x")[0] == 200)
        need(owner_of_a_start(port) == "workers", f"{name}: a start by way of nginx")
        seen = Seen()
        asyncio.run(under_load(Clients(lambda: [port], seen), 100, 5, lambda: asyncio.sleep(2)))
        need(not seen.failed and not set(seen.closes) - {"stopped"}, f"{name}: {seen.failed[:3]} {seen.closes}")
        stage.row("edges", f"nginx {name}: requests, failed; 5 WebSockets", f"{sum(seen.answered.values())}, 0; open")


def haproxy(stage: Stage, binary: Path, parts: Parts) -> None:
    """A TCP balancer with the PROXY protocol: legacy is told the client's address, and who sends no header is closed."""
    gateway, port, folder = Gateway(stage, binary, parts, "behind-haproxy"), free_port(), stage.folder("haproxy")
    (folder / "haproxy.cfg").write_text(
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n"
        f"listen exports\n  bind 127.0.0.1:{port}\n  server gateway 127.0.0.1:{gateway.port} send-proxy-v2\n"
    )
    settings = gateway.folder / "gateway.toml"
    proxied = '[server]\ntrusted_proxies = ["127.0.0.1/32"]\nproxy_protocol = true\n'
    later = settings.with_name("new")
    later.write_text(settings.read_text().replace("[server]\n", proxied))
    later.rename(settings)
    stage.start("haproxy", "-db", "-f", folder / "haproxy.cfg")
    # Until the edit is live, the header is no request.
    told = lambda: json.loads(ask(port, "/api/echo/x", source="127.0.0.9")[2]).get("headers")
    sent = {name.lower(): value for name, value in eventually("HAProxy and the edit", told)}
    need(sent["x-forwarded-for"] == "127.0.0.9", f"legacy is told {sent}")
    try:
        status = ask(gateway.port, "/api/echo/x")[0]
    except (OSError, http.client.HTTPException):
        status = None
    need(status is None, f"without a header: {status}")
    stage.row("edges", "HAProxy, send-proxy-v2: legacy is told the client; no header", "127.0.0.9; closed")


def worker(stage: Stage, binary: Path, parts: Parts) -> None:
    """The gateway with its credential is let in, whoever has none or another is not, and loses no export by it."""
    folder, secret = stage.folder("worker"), "a-secret-of-this-test"
    shutil.copytree(ROOT / "deploy/cloudflare/src", folder, dirs_exist_ok=True)
    (folder / "app.js").write_text(APP)
    (folder / "config.capnp").write_text(CAPNP)
    port = free_port()
    command = [PARTS / "workerd", "serve", folder / "config.capnp", f"--socket-addr=http=127.0.0.1:{port}"]
    stage.start(*command, env={"GATEWAY_HMAC": secret, "GATEWAY_KEY_ID": "2026-11"}, stdin=subprocess.DEVNULL)
    eventually("the Worker", lambda: ask(port, "/health")[0] == 200)
    status, _, text = ask(port, "/api/export/overlay/start", "POST", BODY, {"X-User-Id": "ann"})
    need(status == 401, f"a stranger: {status} {text}")
    parts.workers, before = f"http://127.0.0.1:{port}", parts.workers
    for what, hmac, owner in [("the gateway", secret, "workers"), ("one with another secret", "another", "legacy")]:
        it = Gateway(stage, binary, parts, f"credential-{owner}")
        file = it.folder / "gateway.toml"
        credential = f'[backends.workers.credential]\nhmac = "{hmac}"\nkey_id = "2026-11"\n[identity]'
        later = file.with_name("new")
        later.write_text(file.read_text().replace("[identity]", credential))
        later.rename(file)
        eventually(f"{what} is {owner}'s", lambda: owner_of_a_start(it.port) == owner)
        stage.row("edges", f"the Worker's check: {what}: the start is made by", owner)
    parts.workers = before


def wrangler(stage: Stage) -> None:
    folder = TOOLS / "wrangler"
    if not (folder / "node_modules/.bin/wrangler").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text(json.dumps({"private": True, "dependencies": {"wrangler": WRANGLER}}))
        run("npm", "install", "--no-audit", "--no-fund", "--loglevel=error", cwd=folder, limit=600)
    copy = stage.folder("wrangler")
    shutil.copytree(ROOT / "deploy/cloudflare", copy, dirs_exist_ok=True)
    quiet = {**os.environ, "WRANGLER_SEND_METRICS": "false", "CI": "1", "HOME": str(copy)}
    command = [folder / "node_modules/.bin/wrangler", "deploy", "--dry-run", "--outdir", copy / "out"]
    for planted in [None, ("class_name", "clas_name"), ('main = "src/index.js"', 'main = "src/indx.js"')]:
        text = (ROOT / "deploy/cloudflare/wrangler.toml").read_text()
        if planted:
            need(planted[0] in text, f"wrangler.toml has no {planted[0]}")
        (copy / "wrangler.toml").write_text(text.replace(*planted, 1) if planted else text)
        done = run(*command, check=False, cwd=copy, env=quiet, limit=120)
        said = done.stdout + done.stderr
        good = done.returncode == 0 and "WARNING" not in said and "nexpected fields" not in said
        need(good != bool(planted), f"wrangler deploy --dry-run with {planted}: {said[-1500:]}")
    stage.row("edges", "wrangler deploy --dry-run, and on two planted mistakes", "good, refused")


def exercise(stage: Stage, binary: Path) -> None:
    run(HERE.parent / "backends" / "setup.sh", limit=600)
    parts = Parts(stage)
    nginx(stage, Gateway(stage, binary, parts, "behind-nginx"), parts)
    haproxy(stage, binary, parts)
    worker(stage, binary, parts)
    wrangler(stage)
