"""The Debian package, from a binary that is built already."""

import os
import shutil
import time
from pathlib import Path

from stage import ROOT, TOOLS, Stage, need, run


def build(stage: Stage, binary: Path, version: str | None = None) -> Path:
    """Returns the package; `version` stands for a later release of the same."""
    began = time.monotonic()
    target = stage.folder("deb")
    release = target / "release"
    release.mkdir()
    shutil.copy(binary, release / "export-gateway")
    run(ROOT / "deploy/debian/assets.sh", binary, release / "packaging")
    options = ["--no-build", "--no-strip", "--output", stage.scratch]
    if version:
        options += ["--deb-version", version]
    done = run(TOOLS / "cargo/bin/cargo-deb", *options, cwd=ROOT, env={**os.environ, "CARGO_TARGET_DIR": str(target)})
    package = Path(done.stdout.strip().splitlines()[-1])
    need(package.is_file(), f"no package: {done.stdout} {done.stderr}")
    if not version:
        stage.seconds("package", "cargo deb", time.monotonic() - began)
        stage.row("package", "size", f"{package.stat().st_size / 1024 / 1024:.1f} MiB")
    return package


def lint(stage: Stage, package: Path) -> None:
    said = run("lintian", "--fail-on", "none", "--no-tag-display-limit", package, limit=300).stdout.splitlines()
    tags = [line for line in said if line[:2] in ("E:", "W:")]
    stage.row("package", "lintian: errors and warnings", str(len(tags)))
    need(not tags, "\n".join(tags))
    content = run("dpkg-deb", "--contents", package).stdout
    for path in [
        "./usr/bin/export-gateway",
        "./etc/export-gateway/gateway.toml",
        "./usr/share/man/man1/export-gateway.1.gz",
        "./usr/share/bash-completion/completions/export-gateway",
        "./lib/systemd/system/export-gateway.service",
        "./lib/systemd/system/export-gateway.socket",
    ]:
        need(path in content or path.replace("./lib", "./usr/lib") in content, f"{path} is not in the package:\n{content}")
