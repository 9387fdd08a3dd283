"""The load (bench/tools), held at the moments where something is measured."""

import json
import subprocess
from dataclasses import dataclass, field
from typing import Any


class Broken(Exception):
    """Something without which nothing can be measured."""


@dataclass
class Seen:
    """What the load saw of one proxy in one round."""

    requests: int
    seconds: float
    failed: int
    failures: dict[str, int]
    reconnects: int
    milliseconds: dict[str, float | None]
    changes: list[tuple[float, str]] = field(default_factory=list)


class Load:
    """`with Load(binary, core, spec) as load:` is connected and warm; `go` loads; leaving closes the connections."""

    def __init__(self, binary: str, core: int, spec: dict[str, Any]) -> None:
        command = ["taskset", "-c", str(core), binary]
        self.limit = spec.get("seconds", 0) + 60
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.say(json.dumps(spec))

    def __enter__(self) -> "Load":
        if self.process.stdout.readline().strip() != "ready":
            raise Broken("the load did not come up")
        return self

    def say(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def start(self) -> None:
        self.say("go")

    def seen(self) -> Seen:
        line = self.process.stdout.readline()
        if not line:
            raise Broken("the load ended without a word")
        return Seen(**json.loads(line))

    def go(self) -> Seen:
        self.start()
        return self.seen()

    def __exit__(self, *_: Any) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
