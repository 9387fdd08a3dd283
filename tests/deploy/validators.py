#!/usr/bin/env python3
"""Every validator on every file of deploy/, and on a copy with a mistake planted, which it must refuse.

    validators.py           all of them (nginx, systemd and shellcheck of this machine)
    validators.py --quick   those that `tests/deploy/setup.sh` installs: part of `make test`
"""

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import checks
from stage import ROOT, TOOLS, Failure, fail, run

TOOL = TOOLS / "venv" / "bin"
KUBERNETES = "1.33"


@dataclass
class Validator:
    """What it is called, how it is run on a checkout, and mistakes: file, what stands there, what is put there."""

    name: str
    check: Callable[[Path], None]
    mistakes: list[tuple[str, str, str]]
    quick: bool = True


def compose(root: Path) -> None:
    run(TOOL / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", root / "deploy/compose/docker-compose.yml")


def manifests(path: Path) -> None:
    """kubernetes-validate only warns of kinds that it does not know: one is known, `checks.py` looks at it."""
    done = run(TOOL / "kubernetes-validate", "--strict", "--kubernetes-version", KUBERNETES, path)
    for line in (done.stdout + done.stderr).splitlines():
        if not line.startswith("INFO") and "kind ServiceMonitor" not in line:
            raise Failure(line)
    checks.manifests(path)


def kustomize(root: Path) -> None:
    for overlay in ["one-machine", "replicas"]:
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as built:
            built.write(run(TOOLS / "kubectl", "kustomize", root / "deploy/kubernetes" / overlay).stdout)
            built.flush()
            manifests(Path(built.name))


REDIS = "store.kind=redis,store.redisUrl=redis://redis:6379,serviceMonitor.enabled=true,telemetry.otlpEndpoint=http://collector.monitoring:4318,\
service.type=LoadBalancer,service.annotations.proxy=v2,secret.environment.A=a"


def helm(root: Path) -> None:
    chart = root / "deploy/helm/export-gateway"
    run(TOOLS / "helm", "lint", "--strict", "--quiet", chart)
    for options in [[], ["--set", REDIS]]:
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as built:
            built.write(run(TOOLS / "helm", "template", "release", chart, *options).stdout)
            built.flush()
            manifests(Path(built.name))


def dockerfiles(root: Path) -> None:
    run(TOOL / "hadolint", root / "Dockerfile", root / "tests/backends/Dockerfile")


def yaml(root: Path) -> None:
    rules = "{extends: default, rules: {line-length: {max: 120}, document-start: disable, braces: {max-spaces-inside: 0},\
 comments: {min-spaces-from-content: 1}}}"
    files = [file for file in (root / "deploy").rglob("*.y*ml") if "templates" not in file.parts]
    run(TOOL / "yamllint", "--strict", "-d", rules, *files)


def toml(root: Path) -> None:
    """As TOML alone: the schema that a file names is where the package puts it, and package.py looks with it."""
    with tempfile.TemporaryDirectory() as folder:
        for file in (root / "deploy").rglob("*.toml"):
            copy = Path(folder) / file.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(file.read_text().replace("#:schema", "# schema"))
        run(TOOL / "taplo", "check", *sorted(Path(folder).rglob("*.toml")), cwd=folder)


def systemd(root: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ["export-gateway.service", "export-gateway.socket"]:
            text = (root / "deploy/systemd" / name).read_text()
            # What the package installs is not on this machine.
            text = text.replace("ExecStart=/usr/bin/export-gateway", "ExecStart=/bin/true")
            (Path(folder) / name).write_text(re.sub(r"Documentation=.*\n", "", text))
        run("systemd-analyze", "verify", "--recursive-errors=one", *Path(folder).iterdir())
        run("systemd-analyze", "security", "--offline=true", "--threshold=20", f"{folder}/export-gateway.service")


def nginx(root: Path) -> None:
    for name in ["beside", "in-front"]:
        with tempfile.TemporaryDirectory() as folder:
            conf = Path(folder) / "nginx.conf"
            conf.write_text(f"events {{}}\nhttp {{ include {root}/deploy/nginx/{name}.conf; }}\n")
            run("nginx", "-t", "-q", "-p", folder, "-c", conf, "-g", f"error_log stderr; pid {folder}/pid;")


def shell(root: Path) -> None:
    files = ["deploy/debian/assets.sh", "deploy/debian/postinst", "deploy/debian/postrm", *checks.SCRIPTS]
    run("shellcheck", *[root / file for file in files])


ALL = [
    Validator("compose", compose, [
        ("deploy/compose/docker-compose.yml", "stop_grace_period: 85s", "stop_grace_periode: 85s"),
        ("deploy/compose/docker-compose.yml", "read_only: true", "read_only: [yes]"),
    ]),
    Validator("kustomize", kustomize, [
        ("deploy/kubernetes/base/deployment.yaml", "readinessProbe:", "readynessProbe:"),
        ("deploy/kubernetes/base/networkpolicy.yaml", "policyTypes:", "policyType:"),
        ("deploy/kubernetes/base/service.yaml", "targetPort: http", "targetPort: web"),
        ("deploy/kubernetes/one-machine/deployment.yaml", "claimName:", "claimNane:"),
        ("deploy/kubernetes/replicas/servicemonitor.yaml", "- port: admin", "- port: metrics"),
        ("deploy/kubernetes/replicas/kustomization.yaml", "- redis.yaml", "- rediss.yaml"),
    ]),
    Validator("helm", helm, [
        ("deploy/helm/export-gateway/values.yaml", "pullPolicy:", "pulPolicy:"),
        ("deploy/helm/export-gateway/values.yaml", "kind: file", "kind: disk"),
        ("deploy/helm/export-gateway/values.yaml", 'otlpEndpoint: ""', 'otlpEndpoint: "collector:4318"'),
        ("deploy/helm/export-gateway/values.yaml", "type: ClusterIP", "type: ClusterIp"),
        ("deploy/helm/export-gateway/templates/deployment.yaml", "terminationGracePeriodSeconds:", "terminationPeriod:"),
        ("deploy/helm/export-gateway/templates/config.yaml", ".Values.store.size", ".Values.stoer.size"),
        ("deploy/helm/export-gateway/templates/service.yaml", "{{- end }}", ""),
    ]),
    Validator("hadolint", dockerfiles, [
        ("Dockerfile", "WORKDIR /src", "WORKDIR src"),
        ("Dockerfile", "HEALTHCHECK --interval", "HEALTHCHEK --interval"),
    ]),
    Validator("yamllint", yaml, [("deploy/compose/docker-compose.yml", "  legacy-data:\n  w", "  workers-data:\n  w")]),
    Validator("taplo", toml, [("deploy/fly/fly.toml", 'kill_timeout = "85s"', "kill_timeout = 85s")]),
    Validator("times", checks.times, [
        ("deploy/compose/docker-compose.yml", "stop_grace_period: 85s", "stop_grace_period: 75s"),
        ("deploy/kubernetes/base/deployment.yaml", "terminationGracePeriodSeconds: 90", "terminationGracePeriodSeconds: 80"),
        ("deploy/helm/export-gateway/values.yaml", "PeriodSeconds: 90", "PeriodSeconds: 30"),
        ("deploy/systemd/export-gateway.service", "TimeoutStopSec=85s", "TimeoutStopSec=60s"),
        ("deploy/fly/fly.toml", 'kill_timeout = "85s"', 'kill_timeout = "30s"'),
        ("deploy/nginx/beside.conf", "proxy_read_timeout 90s;\n        proxy_request", "proxy_read_timeout 60s;\n        proxy_request"),
    ]),
    Validator("paths", checks.paths, [
        ("deploy/systemd/gateway.toml", 'store = "/var/lib/export-gateway/jobs.db"', 'store = "data/jobs.db"'),
        ("deploy/compose/docker-compose.yml", "./config:/etc/export-gateway:ro", "./config/gateway.toml:/etc/export-gateway/gateway.toml"),
        ("deploy/kubernetes/base/deployment.yaml", "mountPath: /etc/export-gateway\n", "mountPath: /etc/export-gateway/gateway.toml\n              subPath: gateway.toml\n"),
    ]),
    Validator("fly", checks.fly, [
        ("deploy/fly/fly.toml", "kill_timeout", "kil_timeout"),
        ("deploy/fly/fly.toml", "min_machines_running", "min_machine_running"),
        ("deploy/fly/fly.toml", 'local_path = "gateway.toml"', 'local_path = "gatewy.toml"'),
    ]),
    Validator("worker", checks.worker, [
        ("deploy/cloudflare/src/gateway_signature.js", "export-gateway-1", "export-gateway-2"),
        ("deploy/cloudflare/wrangler.toml", "class_name", "classname"),
    ]),
    Validator("systemd", systemd, [
        ("deploy/systemd/export-gateway.service", "WatchdogSec=", "WatchDogSec="),
        ("deploy/systemd/export-gateway.service", "CapabilityBoundingSet=\n", ""),
        ("deploy/systemd/export-gateway.socket", "ListenStream=", "ListenSteam="),
    ], quick=False),
    Validator("nginx", nginx, [
        ("deploy/nginx/beside.conf", "proxy_next_upstream off;", "proxy_next_upsteam off;"),
        ("deploy/nginx/in-front.conf", "keepalive 128;", "keepalive 128"),
    ], quick=False),
    Validator("shellcheck", shell, [("deploy/debian/assets.sh", 'mkdir -p "$folder"', "mkdir -p $foldr")], quick=False),
]


def gist(problem: Failure, wrong: str) -> str:
    """The line of what was said that names the mistake as one, else one that names it or speaks of a mistake, else the last."""
    plain = re.sub(r"\x1b\[[0-9;]*m|/tmp/tmp\w+/?", "", str(problem))
    lines = [" ".join(line.split()) for line in plain.splitlines() if line.strip()]
    said = [line for line in lines[": exit code " in lines[0] :] if not line.startswith("INFO")] or lines
    words = re.findall(r"[\w-]{4,}", wrong)

    def worth(line: str) -> int:
        speaks = re.search(r"error|unknown|unexpected|not allowed|must be|invalid|parsing|SC\d{4}", line, re.IGNORECASE)
        return 2 * any(word in line for word in words) + bool(speaks)

    best = max(map(worth, said))
    return (next(line for line in said if worth(line) == best) if best else said[-1]).replace("|", "/")[:200]


def validate(validators: list[Validator]) -> list[tuple[str, str]]:
    """Runs them; returns what was seen of each, and what it said to each mistake, or raises the first problem."""
    seen = []
    for validator in validators:
        validator.check(ROOT)
        seen.append((validator.name, f"good, and refuses {len(validator.mistakes)} planted mistakes:"))
        for file, right, wrong in validator.mistakes:
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder)
                for name in ["deploy", "tests/deploy", "tests/backends"]:
                    shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
                shutil.copy(ROOT / "Dockerfile", copy)
                text = (copy / file).read_text()
                if right not in text:
                    raise Failure(f"{validator.name}: {file} has no {right!r} to make a mistake of")
                (copy / file).write_text(text.replace(right, wrong, 1))
                try:
                    validator.check(copy)
                except Failure as problem:
                    planted = " ".join((wrong or f"no {right}").split())[:48]
                    seen.append((f"{validator.name}: {planted}", gist(problem, wrong)))
                    continue
                raise Failure(f"{validator.name} does not see {wrong!r} in {file}")
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only those that need no program of the machine's")
    options = parser.parse_args()
    python = TOOL / "python"
    if Path(sys.prefix) != TOOLS / "venv":
        # What they import is installed there.
        os.execv(python, [str(python), *sys.argv])
    try:
        for what, seen in validate([it for it in ALL if it.quick or not options.quick]):
            print(f"{what}\t{seen}")
    except Failure as problem:
        fail(str(problem))


if __name__ == "__main__":
    sys.exit(main())
