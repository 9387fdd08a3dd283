"""What came of every start: jobs counted at both backends, owners counted in the store, and what must hold of them."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from clients import Got, is_open
from faults import Fault
from starts import STORES, Start

STORE_TROUBLES = sum(STORES.values(), [])
REUSED = "connection closed as it is used again"


@dataclass
class Book:
    """What the backends and the store have when all is over; jobs by start."""

    legacy: dict[int, list[str]]
    workers: dict[int, list[str]]
    paid: Counter[int]
    owners: dict[str, tuple[str, str]]  # Job: backend and user.


@dataclass
class Row:
    starts: int = 0
    legacy: int = 0
    workers: int = 0
    acknowledged: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    twice: int = 0
    lost: int = 0
    cut: int = 0
    other: int = 0


class Ledger:
    def __init__(self) -> None:
        self.got: dict[int, list[Got]] = defaultdict(list)
        self.polls: Counter[str] = Counter()
        self.downloads: Counter[str] = Counter()
        self.disturbed: set[int] = set()  # With a gateway that was killed.
        self.lost: set[int] = set()
        self.cut: set[int] = set()
        self.problems: list[str] = []

    def note(self, start: Start, all_got: Iterable[Got]) -> None:
        self.got[start.number] += all_got

    def open_keys(self, starts: dict[int, Start]) -> list[Start]:
        """Starts whose clients have a key and do not know yet what came of it."""
        return [starts[number] for number, all_got in self.got.items() if starts[number].keyed and is_open(all_got[-1])]

    def acknowledged(self, start: Start, legacy: Fault | None) -> dict[str, Got]:
        """The jobs that a client was told of; more than one is one too many."""
        if legacy is not None and legacy.as_is:
            return {}
        return {got.job: got for got in self.got[start.number] if got.job is not None}

    def poll(self, start: Start, job: str, backend: str, got: Got, why: str) -> None:
        """A poll by the job's own user: its owner's answer, or none at all for now."""
        self.polls[str(got.status or "none")] += 1
        is_right = got.status == 200 and got.value.get("job_id") == job and got.backend == backend
        if not is_right and got.status not in (0, 503):
            self.lost.add(start.number)
            self.problems.append(f"start {start.number}: job {job} of {backend}, {why}: {got.status} {got.body[:200]!r}")

    def must_answer(self, start: Start, job: str, got: Got) -> None:
        if got.status != 200:
            self.lost.add(start.number)
            self.problems.append(f"start {start.number}: nobody answers for job {job}: {got.status} {got.body[:200]!r}")

    def judge(self, start: Start, book: Book, fired: tuple[Fault | None, Fault | None], idempotent: bool, row: Row) -> None:
        """Counts a start into its row, and notes what must not be."""
        number, all_got = start.number, self.got[start.number]
        legacy, workers = book.legacy.get(number, []), book.workers.get(number, [])
        told = self.acknowledged(start, fired[1])
        row.starts += 1
        row.legacy += len(legacy)
        row.workers += len(workers)
        row.acknowledged += bool(told)
        row.answers.update(str(got.status or "none") for got in all_got)
        if len(legacy) + len(workers) > 1 or len(told) > 1 or book.paid[number] > 1:
            row.twice += 1
            self.problems.append(f"start {number}: legacy {legacy}, workers {workers}, told {list(told)}")
        for job, got in told.items():
            if job not in {"legacy": legacy, "workers": workers}.get(got.backend, []):
                self.lost.add(number)
                self.problems.append(f"start {number}: {got.backend} has no job {job}")
            if book.owners.get(job) != (got.backend, start.user):
                self.lost.add(number)
                self.problems.append(f"start {number}: job {job} of {got.backend} is stored as {book.owners.get(job)}")
        if any(self.looks_whole(got, fired[1]) for got in all_got):
            self.cut.add(number)
        if number not in self.disturbed and not is_allowed(start, all_got[0], fired, idempotent):
            row.other += 1
            got = all_got[0]
            self.problems.append(f"start {number}: {row_of(start, fired, got)}: {got.status} {got.backend} {got.body[:200]!r}")
        row.lost += number in self.lost
        row.cut += number in self.cut

    def looks_whole(self, got: Got, legacy: Fault | None) -> bool:
        """A whole answer that says "started" and is no answer of a start."""
        if not 200 <= got.status < 300 or (legacy is not None and legacy.as_is):
            return False
        if got.job is not None and got.value.get("status") in ("processing", "error"):
            return False
        self.problems.append(f"looks whole: {got.status} {got.body[:200]!r}")
        return True


def row_of(start: Start, fired: tuple[Fault | None, Fault | None], first: Got) -> str:
    workers, legacy = fired
    if is_race(first, fired):
        return REUSED
    if start.trouble:
        return start.trouble
    if workers and legacy:
        return f"fallback, legacy: {legacy.name}"
    if legacy:
        return f"legacy: {legacy.name}"
    return f"workers: {workers.name}" if workers else "nothing"


def is_race(got: Got, fired: tuple[Fault | None, Fault | None]) -> bool:
    """The backend got no byte of this start: its connection ended with the start before, in the very moment."""
    met = fired[0] if got.backend == "workers" else fired[1]
    return got.status == 502 and got.code == "start_outcome_unknown" and met is None


def is_allowed(start: Start, got: Got, fired: tuple[Fault | None, Fault | None], idempotent: bool) -> bool:
    """What the failure rules say of a first answer. A time-out may come of a busy machine at any time."""
    on_legacy, on_workers = got.job and got.backend == "legacy", got.job and got.backend == "workers"
    unknown = got.code == "start_outcome_unknown" or got.code == "no_backend"
    if start.trouble in STORE_TROUBLES or got.status == 504 or is_race(got, fired):
        return True
    if start.trouble:
        return in_trouble(start, got, bool(on_legacy), bool(on_workers), unknown)
    workers, legacy = fired
    if legacy is not None:
        return {"accepted": on_legacy, "passed": got.status != 0, "unknown": unknown}[legacy.then]
    if workers is None:
        return bool(got.job)
    return {
        "accepted": bool(on_workers),
        "legacy": bool(on_legacy) or unknown,
        # Asked again after such a race, a refusal says nothing of the first attempt.
        "rejected": 400 <= got.status < 500 or got.status == 500 and bool(on_workers) or idempotent and unknown,
        "unknown": unknown or idempotent and bool(on_workers),
    }[workers.then]


def in_trouble(start: Start, got: Got, on_legacy: bool, on_workers: bool, unknown: bool) -> bool:
    no_backend = got.code == "no_backend"
    match start.trouble:
        case "no working video" | "input_key: no database":
            return got.status == 400 and got.value == {"detail": "No working video found"}
        case "no JSON content type":
            return got.status == 422
        case "input_key: database locked" | "workers refuse" | "workers black-hole" | "circuit open":
            # The master switch may be off: then legacy has it anyway.
            return on_legacy or no_backend
        case "both refuse":
            return no_backend or unknown
        case "legacy refuses" | "legacy black-holes":
            return no_backend or on_workers or unknown
        case _:
            return on_workers or on_legacy or unknown
