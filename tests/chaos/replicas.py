"""The gateways under test: real binaries that share one file and one job store, killed and started again at will."""

import asyncio
import json
import random
from collections import Counter
from pathlib import Path

from parts import PATIENCE, Broken, die_with_parent, get_json

CONFIG_UNUSABLE = 64
TRIES = 50

USERS = {"moved": 20, "stays": 20, "canary": 40, "locked": 8}  # How many of each kind there are.

# Time-outs are short so that ten thousand starts end today; the circuit stays closed where single failures are looked at.
FILE = """\
[server]
listen = "127.0.0.1:0"
{server}
[admin]
listen = "127.0.0.1:0"
[backends.legacy]
url = "{legacy}"
connect_timeout = "300ms"
start_timeout = "{legacy_start}"
status_timeout = "3s"
answer_timeout = "5s"
[backends.workers]
url = "{workers}"
connect_timeout = "300ms"
start_timeout = "{workers_start}"
status_timeout = "3s"
idempotent = {idempotent}
[circuit]
minimum = 1000000
consecutive = {consecutive}
open = "{open}"
open_max = "1500ms"
[rollout]
workers = {switch}
percent = {percent}
always_workers = {moved}
always_legacy = {stays}
[exports.overlay]
params = ["highlight_regions", "effect_type"]
[exports.overlay.input_key]
database = "{data}/user_data/{{user_id}}/database.sqlite"
query = "SELECT filename FROM working_videos WHERE project_id = :project_id ORDER BY version DESC LIMIT 1"
key = "working_videos/{{filename}}"
missing = "No working video found"
[exports.framing]
[exports.annotate]
[jobs]
store = "{store}"
# END
"""


def users(kind: str) -> list[str]:
    return [f"{kind}-{number}" for number in range(USERS[kind])]


class File:
    """gateway.toml, edited in all the ways that people edit it."""

    def __init__(self, folder: Path, dice: random.Random, **values: str) -> None:
        self.path, self.dice = folder / "gateway.toml", dice
        moved, stays = users("moved") + users("locked"), users("stays")
        self.values: dict[str, object] = {
            "idempotent": "false",
            "consecutive": 1_000_000,
            "open": "200ms",
            "legacy_start": "1500ms",
            "workers_start": "1s",
            "server": "",
            "switch": "true",
            "percent": 100,
            "moved": json.dumps(moved),
            "stays": json.dumps(stays),
            **values,
        }
        self.edits = 0
        self.path.write_text(self.text())

    def text(self) -> str:
        return FILE.format(**self.values)

    def edit(self, **values: object) -> None:
        """By rename, in place, half first, or with a mistake before it is right."""
        self.values.update(values)
        self.edits += 1
        text, way = self.text(), self.dice.choice(["rename", "in place", "half first", "mistake first"])
        if way == "rename":
            new = self.path.with_suffix(".new")
            new.write_text(text)
            new.rename(self.path)
            return
        if way == "half first":
            self.path.write_text(text[: len(text) // 2])
        elif way == "mistake first":
            self.path.write_text(text.replace("percent =", "per_cent ="))
        self.path.write_text(text)


class Replica:
    """One gateway. Its events are kept; its access log goes to a file."""

    def __init__(self, binary: str, file: File, folder: Path, name: str) -> None:
        self.binary, self.file, self.folder, self.name = binary, file, folder, name
        self.events: list[dict] = []
        self.ready = asyncio.Event()
        self.kills = 0
        self.wrap: list[str] = []  # A command that becomes the gateway.
        self.address: tuple[str, int] | None = None
        self.admin: tuple[str, int] | None = None

    async def start(self) -> None:
        """Starts it as a supervisor does: one that met the file in the middle of an edit (exit code 64) is tried again."""
        for _ in range(TRIES):
            first = len(self.events)
            await self.spawn()
            self.address = await self.wait_address(first, "listening")
            self.admin = await self.wait_address(first, "admin listening")
            if self.address and self.admin:
                self.ready.set()
                return
            if self.process.returncode != CONFIG_UNUSABLE:
                break
        raise Broken(f"{self.name} ended with {self.process.returncode}: {self.events[first:]}")

    async def spawn(self) -> None:
        with open(self.folder / f"{self.name}-access.jsonl", "ab") as access:
            self.process = await asyncio.create_subprocess_exec(
                *self.wrap,
                self.binary,
                "--config",
                str(self.file.path),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=access,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
                preexec_fn=die_with_parent,
                limit=1 << 20,
            )
        self.reader = asyncio.create_task(self.read_events(self.process.stderr))

    async def read_events(self, pipe: asyncio.StreamReader) -> None:
        with open(self.folder / f"{self.name}-events.jsonl", "ab") as log:
            async for line in pipe:
                log.write(line)
                try:
                    event = json.loads(line)
                except ValueError:
                    event = {"message": line.decode("utf-8", "replace")}
                self.events.append({**event, **event.get("fields", {})})

    async def wait_address(self, first: int, message: str) -> tuple[str, int] | None:
        """The address that it says it listens at; None if it has ended instead."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for event in self.events[first:]:
                    if event.get("message") == message:
                        host, port = event["address"].rsplit(":", 1)
                        return host, int(port)
                if self.process.returncode is not None:
                    return None
                await asyncio.sleep(0.002)

    async def kill(self) -> None:
        """As `kill -9` does."""
        self.ready.clear()
        self.process.kill()
        await self.process.wait()
        await self.reader
        self.kills += 1

    async def end(self) -> int:
        self.ready.clear()
        self.process.terminate()
        return await self.process.wait()

    async def reasons(self) -> set[str]:
        """What `/readyz` says is wrong."""
        value = await get_json(f"http://{self.admin[0]}:{self.admin[1]}", "/readyz")
        return {reason["code"] for reason in value["reasons"]}

    def said(self, since: int) -> Counter[str]:
        """Warnings and errors since an event, by message."""
        lines = [event for event in self.events[since:] if event.get("level") in ("WARN", "ERROR")]
        lines = [event for event in lines if "file descriptors" not in event["message"]]  # Of the machine, not of this.
        return Counter(f"{event['level'].lower()}: {event.get('message')}" for event in lines)


async def until(what: str, holds, pause: float = 0.02) -> None:
    """Waits until an async question is answered by yes."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not await holds():
                await asyncio.sleep(pause)
    except TimeoutError:
        raise Broken(f"waited {PATIENCE} s in vain: {what}") from None
