#!/usr/bin/env python3
"""`make deploy-test`: builds everything that lies in deploy/, exercises it on this machine, and prints a table.

    deploy_test.py                     all parts
    deploy_test.py --only image boot   some
    deploy_test.py --binary FILE       package, upgrade, edges and boot with a binary that is there already, no image

Debian 12, as root, with Rust, Node 20 and Python 3.11; what else is needed is installed (apt, pip, npm, cargo). Nothing
is left behind but what was installed and .parts; --keep leaves the base images and roots for the next run.
"""

import argparse
import contextlib
import os
import shutil
import sys
import time
from pathlib import Path

import boot
import compose
import edges
import image
import package
import upgrade
from stage import HERE, PARTS, TOOLS, Stage, fail, need, run

ALL = ["validators", "image", "rebuild", "compose", "upgrade", "edges", "package", "boot"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ALL, default=ALL)
    parser.add_argument("--binary", type=Path)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--scratch", type=Path, default=Path("/var/tmp/export-gateway-deploy-test"))
    options = parser.parse_args()
    if os.geteuid() != 0:
        fail("containers and namespaces are made here: run it as root")
    os.environ["EXPORT_GATEWAY_PARTS"] = str(PARTS)
    os.environ["EXPORT_GATEWAY_DEPLOY_PARTS"] = str(TOOLS)
    run(HERE / "machine.sh", limit=1800)
    before = traces(options.scratch.absolute())
    began, stage = time.monotonic(), Stage(options.scratch.absolute())
    try:
        with stage.undo:
            exercise(stage, options)
    finally:
        if not options.keep:
            image.tidy(stage)
            boot.tidy(stage)
            shutil.rmtree(stage.scratch, ignore_errors=True)
            with stage.part("tidy"):
                left = traces(stage.scratch) - before
                need(not left and not stage.scratch.exists(), f"left behind: {sorted(left)}, {stage.scratch}")
                stage.row("tidy", "mounts, namespaces, interfaces, rules, processes, scratch", "none left")
    print("\n| part | what | seen |\n| --- | --- | --- |")
    for row in stage.rows:
        print("| " + " | ".join(text.replace("\n", " ") for text in row) + " |")
    print(f"\n{'FAILED' if stage.failed else 'all good'}, {time.monotonic() - began:.0f} s")
    return 1 if stage.failed else 0


def traces(scratch: Path) -> set[str]:
    """What a run could leave on this machine: mounts, network namespaces and interfaces, firewall rules, processes."""
    places = {line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()}
    mounts = {f"mount {place}" for place in places if place.startswith((f"{scratch}/", "/run/netns"))}
    links = {f"link {line.split(':')[1].strip()}" for line in run("ip", "-o", "link").stdout.splitlines()}
    spaces = {f"netns {line}" for line in run("ip", "netns").stdout.splitlines()}
    rules = {f"rule {line}" for line in run("iptables-save", check=False).stdout.splitlines() if line.startswith("-A")}
    processes = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{scratch}/" in (folder / "cmdline").read_bytes().decode(errors="replace"):
                processes.add(f"process {folder.name}")
    return mounts | links | spaces | rules | processes


def exercise(stage: Stage, options: argparse.Namespace) -> None:
    wanted, binary = set(options.only), options.binary
    if "validators" in wanted:
        with stage.part("validators"):
            done = run(HERE / "validators.py", limit=900)
            for line in done.stdout.splitlines():
                stage.row("validators", *line.split("\t", 1))
    if wanted & {"image", "rebuild", "compose"} or not binary:
        image.environment(stage)
        with stage.part("image"):
            run(HERE.parent / "backends/setup.sh", limit=900)
            binary = image.build(stage)
            if "image" in wanted:
                image.exercise(stage)
    if binary is None:
        return
    if "rebuild" in wanted:
        with stage.part("rebuild"):
            image.rebuild(stage, binary)
    if "compose" in wanted:
        with stage.part("compose"):
            compose.exercise(stage)
    if "upgrade" in wanted:
        with stage.part("upgrade"):
            upgrade.exercise(stage, binary)
    if "edges" in wanted:
        with stage.part("edges"):
            edges.exercise(stage, binary)
    if wanted & {"package", "boot"}:
        with stage.part("package"):
            first, second = package.build(stage, binary), package.build(stage, binary, "0.1.0-2")
            package.lint(stage, first)
            if "boot" in wanted:
                with stage.part("boot"):
                    boot.exercise(stage, first, second)


if __name__ == "__main__":
    sys.exit(main())
