"""The starts of a run and the weather they go out in: all drawn from the seed, in an order that a second run repeats."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from faults import LEGACY, WORKERS, Fault
from replicas import users

FIRST_PROJECT = 1_000
NO_VIDEO = 1_000_000_000  # Projects from here on have none.
UPLOAD = 160 * 1024  # Bytes of a body that the middleman does not take in at once.

# What a start meets without any network: the user's database, or the request itself.
SPECIAL = ["input_key: database locked", "input_key: no database", "no working video", "no JSON content type"]

NETWORKS = [
    "workers refuse",
    "workers black-hole",
    "legacy refuses",
    "legacy black-holes",
    "both refuse",
    "circuit open",
    "connection closed as it is used again",
]
STORES = {"sqlite": ["store locked"], "redis": ["Redis killed and restarted", "Redis frozen", "Redis connections cut"]}


@dataclass
class Start:
    number: int
    user: str
    export: str
    keyed: bool
    workers: Fault | None = None
    legacy: Fault | None = None
    trouble: str = ""  # A special case or a weather; it names the row then.
    replica: int | None = None  # The only one that may be asked.

    @property
    def project(self) -> int:
        return FIRST_PROJECT + self.number + (NO_VIDEO if self.trouble == "no working video" else 0)

    @property
    def key(self) -> str | None:
        return f"key-{self.number}" if self.keyed else None

    def request(self, attempt: int) -> bytes:
        value: dict = {"project_id": self.project, "effect_type": "glow"}
        if self.export == "overlay":
            value["highlight_regions"] = []
        if self.workers is not None and self.workers.name == "reset mid-upload":
            value["effect_type"] = "x" * UPLOAD
        body = json.dumps(value).encode()
        kind = "text/plain" if self.trouble == "no JSON content type" else "application/json"
        lines = [
            f"POST /api/export/{self.export}/start HTTP/1.1",
            "Host: gateway.example",
            f"X-User-Id: {self.user}",
            f"X-Request-Id: s-{self.number}-{attempt}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *([f"Idempotency-Key: {self.key}"] if self.key else []),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass
class Segment:
    """Starts that go out together; `weather` is empty while the network is whole."""

    weather: str
    starts: list[Start] = field(default_factory=list)


class Deck:
    """Deals every card once before any comes again."""

    def __init__(self, dice: random.Random, cards: list) -> None:
        self.dice, self.cards, self.left = dice, cards, []

    def deal(self):
        if not self.left:
            self.left = self.dice.sample(self.cards, len(self.cards))
        return self.left.pop()


class Starts:
    """Makes starts without end; `by_number` knows all that were made."""

    def __init__(self, seed: int, store: str, fair: int) -> None:
        self.dice = random.Random(f"{seed}-starts")
        self.by_number: dict[int, Start] = {}
        self.fair, self.wave = fair, max(10, fair // 6)
        self.workers = Deck(self.dice, WORKERS)
        self.declined = Deck(self.dice, [fault for fault in WORKERS if fault.then == "legacy"])
        self.legacy = Deck(self.dice, LEGACY)
        self.special = Deck(self.dice, SPECIAL)
        self.weathers = Deck(self.dice, NETWORKS + STORES[store])

    def make(self, user: str, **more) -> Start:
        export = self.dice.choice(["overlay", "overlay", "framing", "annotate"])
        start = Start(len(self.by_number), user, export, self.dice.random() < 0.6, **more)
        self.by_number[start.number] = start
        return start

    def user(self, kind: str) -> str:
        return self.dice.choice(users(kind))

    def segments(self) -> Iterator[Segment]:
        while True:
            yield Segment("", [self.in_fair_weather() for _ in range(self.fair)])
            weather = self.weathers.deal()
            yield Segment(weather, [self.in_weather(weather) for _ in range(self.wave)])

    def in_fair_weather(self) -> Start:
        kind = self.dice.choices(["workers", "legacy", "both", "special", "none"], [62, 22, 8, 5, 3])[0]
        if kind == "workers":
            return self.make(self.user(self.dice.choice(["moved", "canary"])), workers=self.workers.deal())
        if kind == "legacy":
            return self.make(self.user("stays"), legacy=self.legacy.deal())
        if kind == "both":
            return self.make(self.user("moved"), workers=self.declined.deal(), legacy=self.legacy.deal())
        if kind == "none":
            return self.make(self.user("canary"))
        trouble = self.special.deal()
        user = self.user("moved")
        if trouble == "input_key: database locked":
            user = self.user("locked")
        elif trouble == "input_key: no database":
            user = f"nobody-{len(self.by_number)}"
        return self.make(user, trouble=trouble)

    def in_weather(self, weather: str) -> Start:
        if weather in ("both refuse", "legacy refuses", "legacy black-holes") or weather in sum(STORES.values(), []):
            # Legacy's own users, those of workers, and those that workers decline.
            kind = self.dice.choice(["stays", "moved", "declined"])
            if kind == "declined":
                return self.make(self.user("moved"), workers=self.declined.deal(), trouble=weather)
            return self.make(self.user(kind), trouble=weather)
        return self.make(self.user("moved"), trouble=weather)
