"""systemd as it is on a user's machine: a container boots, installs the package, and a probe inside does the rest."""

import shutil
import time
from pathlib import Path

from stage import HERE, Failure, Stage, need, run

PACKAGES = "systemd,systemd-sysv,dbus,curl,adduser,init-system-helpers,ca-certificates,python3,procps,logrotate"
UNIT = """[Unit]
Description=the deployment test
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/bash /root/probe.sh
ExecStopPost=/bin/systemctl poweroff --force
TimeoutStartSec=180
StandardOutput=file:/root/out
StandardError=file:/root/err
[Install]
WantedBy=multi-user.target
"""


def exercise(stage: Stage, first: Path, second: Path) -> None:
    began = time.monotonic()
    clean, root = stage.scratch / "boot-clean", stage.scratch / "boot"
    done = clean / ".done"
    if not (done.exists() and done.read_text() == PACKAGES):
        shutil.rmtree(clean, ignore_errors=True)
        run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", clean, "http://deb.debian.org/debian", limit=900)
        done.write_text(PACKAGES)
        stage.seconds("boot", "debootstrap", time.monotonic() - began)
    shutil.rmtree(root, ignore_errors=True)
    run("cp", "-a", clean, root)
    shutil.copy(first, root / "root/first.deb")
    shutil.copy(second, root / "root/second.deb")
    for name in ["probe.sh", "load.py", "boot_load.py", "boot_legacy.py"]:
        shutil.copy(HERE / name, root / "root")
    (root / "etc/systemd/system/probe.service").write_text(UNIT)
    run("systemctl", f"--root={root}", "enable", "probe.service")
    began = time.monotonic()
    command = ["systemd-nspawn", "-q", "-D", root, "-b", "--register=no", "--keep-unit", "--private-network", "--console=pipe"]
    done = run(*command, check=False, limit=300, stdin=-3)
    out = (root / "root/out").read_text() if (root / "root/out").exists() else ""
    if "the end" not in out:
        errors = (root / "root/err").read_text()[-3000:] if (root / "root/err").exists() else done.stdout[-2000:]
        raise Failure(f"the probe did not come to its end:\n{out[-1500:]}\n{errors}")
    stage.seconds("boot", "boot, probe and power off", time.monotonic() - began)
    for line in out.splitlines():
        if line.startswith("| "):
            _, what, value = [part.strip() for part in line.split("|")]
            stage.row("boot", what, value)
    shutil.rmtree(root, ignore_errors=True)


def tidy(stage: Stage) -> None:
    for name in ["boot", "boot-clean"]:
        shutil.rmtree(stage.scratch / name, ignore_errors=True)
    need(not (stage.scratch / "boot").exists(), "the boot folder could not be removed")
