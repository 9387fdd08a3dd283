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
    schema(stage, package)
    content = run("dpkg-deb", "--contents", package).stdout
    for path in [
        "./usr/bin/export-gateway",
        "./etc/export-gateway/gateway.toml",
        "./etc/export-gateway/environment",
        "./etc/logrotate.d/export-gateway",
        "./usr/share/export-gateway/gateway.schema.json",
        "./usr/share/man/man1/export-gateway.1.gz",
        "./usr/share/bash-completion/completions/export-gateway",
        "./usr/share/zsh/vendor-completions/_export-gateway",
        "./usr/share/fish/vendor_completions.d/export-gateway.fish",
        "./lib/systemd/system/export-gateway.service",
        "./lib/systemd/system/export-gateway.socket",
    ]:
        need(path in content or path.replace("./lib", "./usr/lib") in content, f"{path} is not in the package:\n{content}")


def schema(stage: Stage, package: Path) -> None:
    """The schema in the package fits every gateway.toml that is shipped, and marks a mistake in each."""
    inside = stage.folder("package")
    run("dpkg-deb", "--extract", package, inside)
    named, there = "#:schema /usr/share/export-gateway/", f"#:schema {inside}/usr/share/export-gateway/"
    need(named in (inside / "etc/export-gateway/gateway.toml").read_text(), "the packaged file names no schema")
    copy, files = inside / "gateway.toml", sorted((ROOT / "deploy").rglob("gateway.toml"))
    for file in [ROOT / "gateway.toml", *files]:
        text = f"{there}gateway.schema.json\n" + file.read_text().replace("#:schema", "# schema")
        for planted in [None, ("percent = 0", "percnt = 0"), ("percent = 0", "percent = 101")]:
            copy.write_text(text.replace(*planted, 1) if planted else text)
            done = run(TOOLS / "venv/bin/taplo", "check", copy, check=False)
            need((done.returncode == 0) != bool(planted), f"{file} with {planted}: {done.stdout}{done.stderr}")
    stage.row("package", "taplo with the packaged schema; on two planted mistakes", f"{1 + len(files)} files good, refused")
