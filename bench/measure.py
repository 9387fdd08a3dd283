"""What a process has used: CPU time to the nanosecond, memory, and what the rest of the machine did meanwhile.

CPU time is the scheduler's own account of each thread (/proc/PID/task/TID/schedstat), not the ticks of /proc/PID/stat, which
are too coarse for a second's run. A thread that ended takes its time along: the proxies keep theirs.
"""

import os
import time
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def family(root: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parent = int(Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry))
    found, queue = [], [root]
    while queue:
        one = queue.pop()
        found.append(one)
        queue += children.get(one, [])
    return found


def cpu(root: int) -> float:
    """CPU seconds of a process and its descendants."""
    total = 0
    for process in family(root):
        try:
            for task in os.listdir(f"/proc/{process}/task"):
                total += int(Path(f"/proc/{process}/task/{task}/schedstat").read_text().split()[0])
        except OSError:
            continue
    return total / 1e9


def memory(root: int, field: str = "VmRSS") -> int:
    """Bytes of memory of a process and its descendants; `VmHWM` is the highest since `forget_peak`."""
    total = 0
    for process in family(root):
        try:
            for line in Path(f"/proc/{process}/status").read_text().splitlines():
                if line.startswith(f"{field}:"):
                    total += int(line.split()[1]) * 1024
        except OSError:
            continue
    return total


def forget_peak(root: int) -> None:
    for process in family(root):
        Path(f"/proc/{process}/clear_refs").write_text("5")


def busy(core: int) -> float:
    """Seconds that a core has worked for anybody, stolen ones included."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            user, nice, system, _, _, irq, soft, stolen = (int(field) for field in line.split()[1:9])
            return (user + nice + system + irq + soft + stolen) / TICK
    raise ValueError(f"this machine has no core {core}")


class Window:
    """From here to `end`: the CPU seconds of a proxy, and how much of its core others took."""

    def __init__(self, root: int, core: int) -> None:
        self.root, self.core = root, core
        self.cpu, self.busy, self.began = cpu(root), busy(core), time.monotonic()

    def end(self) -> tuple[float, float]:
        """CPU seconds, and the share of the core that was not the proxy's, 0 to 1."""
        used, wall = cpu(self.root) - self.cpu, time.monotonic() - self.began
        foreign = (busy(self.core) - self.busy - used) / wall
        return used, max(0.0, foreign)


def machine() -> str:
    """The machine in a line, as it is now."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "unknown CPU",
    )
    load = os.getloadavg()
    return f"{model}, {os.cpu_count()} cores, Linux {os.uname().release}, load average {load[0]:.1f}"
