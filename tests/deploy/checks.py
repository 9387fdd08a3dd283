"""Rules of our own about what lies in deploy/, which no validator knows: times that fit, paths, names that meet."""

import re
import tomllib
from pathlib import Path

from stage import Failure, need

SCRIPTS = ["tests/deploy/setup.sh", "tests/deploy/machine.sh", "tests/deploy/base_images.sh", "tests/backends/setup.sh"]

# fly.toml as Fly documents it: the tables and keys that are used here.
FLY_KEYS = {
    "": "app primary_region kill_signal kill_timeout",
    "build": "dockerfile build-target",
    "deploy": "strategy",
    "env": None,
    "files": "guest_path local_path",
    "mounts": "source destination initial_size",
    "http_service": "internal_port force_https auto_stop_machines auto_start_machines min_machines_running",
    "http_service.concurrency": "type soft_limit hard_limit",
    "checks.ready": "type port method path interval timeout grace_period",
    "metrics": "port path",
    "vm": "size memory",
}
WRANGLER_KEYS = {
    "": "name main compatibility_date workers_dev preview_urls",
    "routes": "pattern custom_domain",
    "vars": None,
    "durable_objects.bindings": "name class_name",
    "migrations": "tag new_sqlite_classes",
    "observability": "enabled",
}


def documents(path: Path) -> list[dict]:
    # Only where validators are installed; the import would fail elsewhere.
    import yaml

    return [it for it in yaml.safe_load_all(path.read_text()) if it]


def manifests(path: Path) -> None:
    """Selectors select, ports have names that exist, and the ServiceMonitor leads to one."""
    found = documents(path)
    kinds = lambda kind: [it for it in found if it["kind"] == kind]
    pods = {}
    for owner in kinds("Deployment") + kinds("StatefulSet"):
        template = owner["spec"]["template"]
        labels = template["metadata"]["labels"]
        need(owner["spec"]["selector"]["matchLabels"].items() <= labels.items(), f"{owner['metadata']['name']}: selector")
        ports = {port["name"] for it in template["spec"]["containers"] for port in it.get("ports", [])}
        pods[owner["metadata"]["name"]] = (labels, ports)
        need(template["spec"]["securityContext"]["runAsNonRoot"], "runs as root")
        for container in template["spec"]["containers"]:
            context = container["securityContext"]
            need(context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"], "not restricted")
            need(context["capabilities"]["drop"] == ["ALL"], "has capabilities")

    def selected(selector: dict) -> list[set]:
        return [ports for labels, ports in pods.values() if selector and selector.items() <= labels.items()]

    for service in kinds("Service"):
        name, chosen = service["metadata"]["name"], selected(service["spec"]["selector"])
        need(len(chosen) == 1, f"service {name} selects {len(chosen)} kinds of pods")
        for port in service["spec"]["ports"]:
            need(port["targetPort"] in chosen[0], f"service {name}: no port {port['targetPort']}")
    for kind, key in [("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")]:
        for it in kinds(kind):
            need(len(selected(it["spec"][key].get("matchLabels", {}))) == 1, f"{kind} selects no pods")
    for scaler in kinds("HorizontalPodAutoscaler"):
        need(scaler["spec"]["scaleTargetRef"]["name"] in pods, "the autoscaler's target")
        target = [it for it in kinds("Deployment") if it["metadata"]["name"] == scaler["spec"]["scaleTargetRef"]["name"]]
        need("replicas" not in target[0]["spec"], "replicas are the autoscaler's")
    for monitor in kinds("ServiceMonitor"):
        labels = monitor["spec"]["selector"]["matchLabels"]
        leads = [it for it in kinds("Service") if labels.items() <= it["metadata"]["labels"].items()]
        need(len(leads) == 1, f"the ServiceMonitor selects {len(leads)} services")
        names = {port["name"] for port in leads[0]["spec"]["ports"]}
        need(all(it["port"] in names for it in monitor["spec"]["endpoints"]), "the ServiceMonitor's port")
    for settings in kinds("ConfigMap"):
        need(settings["data"]["gateway.toml"].strip().endswith("# END"), "gateway.toml is not whole")


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(ms|s|m)?", text).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60, None: 1}[unit]


def end_of(root: Path, file: str) -> float:
    """How long a gateway with this file may take to end: its delay, its drain, and five seconds."""
    server = tomllib.loads((root / file).read_text())["server"]
    return seconds(server.get("drain_delay", "0s")) + seconds(server.get("drain_timeout", "75s")) + 5


def number(root: Path, file: str, pattern: str) -> float:
    found = re.search(pattern, (root / file).read_text(), re.MULTILINE)
    need(found, f"{file} has no {pattern}")
    return seconds(found[1])


def times(root: Path) -> None:
    """Whoever stops a gateway gives it the time that its own file says it needs."""
    kubernetes, chart = "deploy/kubernetes/base/deployment.yaml", "deploy/helm/export-gateway/values.yaml"
    given = [
        ("deploy/compose/config/gateway.toml", number(root, "deploy/compose/docker-compose.yml", r"^  stop_grace_period: (\S+)")),
        ("deploy/compose/config-replicas/gateway.toml", number(root, "deploy/compose/docker-compose.yml", r"^  stop_grace_period: (\S+)")),
        ("deploy/kubernetes/base/gateway.toml", number(root, kubernetes, r"GracePeriodSeconds: (\d+)") - number(root, kubernetes, r"sleep:\n +seconds: (\d+)")),
        ("deploy/kubernetes/replicas/gateway.toml", number(root, kubernetes, r"GracePeriodSeconds: (\d+)") - number(root, kubernetes, r"sleep:\n +seconds: (\d+)")),
        ("deploy/helm/export-gateway/files/gateway.toml", number(root, chart, r"^terminationGracePeriodSeconds: (\d+)") - number(root, chart, r"^preStopSeconds: (\d+)")),
        ("deploy/systemd/gateway.toml", number(root, "deploy/systemd/export-gateway.service", r"^TimeoutStopSec=(\S+)")),
        ("deploy/fly/gateway.toml", number(root, "deploy/fly/fly.toml", r'^kill_timeout = "(\S+)"')),
    ]
    for file, time in given:
        need(time >= end_of(root, file), f"{file}: {time:.0f} s are given, it may take {end_of(root, file):.0f} s")
    for name in ["beside", "in-front"]:
        text = (root / f"deploy/nginx/{name}.conf").read_text()
        for time in re.findall(r"proxy_read_timeout (\S+);", text.replace("1h", "3600s")):
            need(seconds(time) >= 75, f"deploy/nginx/{name}.conf: proxy_read_timeout {time}, a start may take 75 s")


def paths(root: Path) -> None:
    """State lies under /var/lib, by absolute paths; the file is mounted with its folder."""
    for file in sorted((root / "deploy").rglob("gateway.toml")):
        settings = tomllib.loads(file.read_text())
        name = file.relative_to(root)
        store = re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", settings["jobs"]["store"])
        need(store.startswith(("/var/lib/", "redis")), f"{name}: jobs.store = {store}")
        look_up = settings["exports"]["overlay"]["input_key"]
        need("url" in look_up or look_up["database"].startswith("/var/lib/"), f"{name}: {look_up}")
        need(settings["rollout"]["percent"] == 0, f"{name} moves somebody")
        need(file.read_text().rstrip().endswith("# END"), f"{name}: no # END")
    for file in (root / "deploy").rglob("*"):
        if file.is_file():
            text = "\n".join(line for line in file.read_text().splitlines() if not line.lstrip().startswith(("#", "//")))
            need("subPath" not in text, f"{file.relative_to(root)}: subPath")
            mounted = re.search(r"gateway\.toml:/|mountPath: \S*gateway\.toml", text)
            need(not mounted, f"{file.relative_to(root)}: gateway.toml is mounted alone")


def known(tables: dict, keys: dict, at: str, file: str) -> None:
    allowed = keys.get(at)
    for key, value in tables.items():
        path = f"{at}.{key}".lstrip(".")
        below = [it for it in (value if isinstance(value, list) else [value]) if isinstance(it, dict)]
        if below and (path in keys or any(it.startswith(f"{path}.") for it in keys)):
            for table in below:
                known(table, keys, path, file)
        elif not (at in keys and (allowed is None or key in allowed.split())):
            raise Failure(f"{file}: unknown key {path}")


def fly(root: Path) -> None:
    file = root / "deploy/fly/fly.toml"
    settings = tomllib.loads(file.read_text())
    known(settings, FLY_KEYS, "", "fly.toml")
    for entry in settings["files"]:
        need((file.parent / entry["local_path"]).is_file(), f"fly.toml: there is no {entry['local_path']}")
    dockerfile = file.parent / settings["build"]["dockerfile"]
    need(re.search(rf"^FROM \S+ AS {settings['build']['build-target']}$", dockerfile.read_text(), re.MULTILINE), "build-target")
    gateway = tomllib.loads((file.parent / "gateway.toml").read_text())
    need(gateway["server"]["listen"].endswith(f":{settings['http_service']['internal_port']}"), "fly.toml: internal_port")
    need(gateway["admin"]["listen"].endswith(f":{settings['checks']['ready']['port']}"), "fly.toml: the check's port")


def worker(root: Path) -> None:
    """The check that ships is the one that the tests run on workerd."""
    folder = root / "deploy/cloudflare"
    tested = (root / "tests/backends/workers/gateway_signature.js").read_text()
    need((folder / "src/gateway_signature.js").read_text() == tested, "gateway_signature.js is not the tested one")
    settings = tomllib.loads((folder / "wrangler.toml").read_text())
    known(settings, WRANGLER_KEYS, "", "wrangler.toml")
    need((folder / settings["main"]).is_file(), f"wrangler.toml: there is no {settings['main']}")
    exported = re.findall(r"^export class (\w+)", (folder / "src/app.js").read_text(), re.MULTILINE)
    for binding in settings["durable_objects"]["bindings"]:
        need(binding.get("class_name") in exported, f"wrangler.toml: no class {binding.get('class_name')}")
