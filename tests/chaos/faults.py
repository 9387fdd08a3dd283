"""What can go wrong with a start at a backend, by name: the rows of the failure rules as a network shows them.

A fault is shown by the middleman. `job` says whether the backend gets the start and so makes its job; `then` what the
rules want of it: `accepted`, `legacy` (fall back), `rejected` (the answer as it is), `unknown`.
"""

import asyncio
import gzip
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from wire import Message, reset

SLOW = 3.0  # Seconds: longer than any time-out in the file that `replicas.py` writes.


@dataclass
class Exchange:
    """One request at the middleman; `answer` is the backend's own, if it was asked."""

    writer: asyncio.StreamWriter
    answer: Message | None
    dice: random.Random
    origin: str
    target: str
    open: bool = True

    @property
    def job(self) -> dict:
        try:
            value = json.loads(self.answer.body) if self.answer else None
        except ValueError:
            value = None
        return value if isinstance(value, dict) and "job_id" in value else {"job_id": "no-job", "status": "processing"}

    @property
    def text(self) -> bytes:
        return json.dumps(self.job).encode()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def say(self, status: int, body: bytes, kind: str = "application/json", *lines: str, length: int = -1) -> None:
        size = len(body) if length < 0 else length
        head = [f"HTTP/1.1 {status} As-Asked", f"Content-Type: {kind}", f"Content-Length: {size}", *lines]
        await self.send("\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body)

    async def whole(self) -> None:
        """The backend's answer as it came."""
        if self.answer is not None:
            await self.send(self.answer.head + self.answer.raw)

    async def end(self, how: str) -> None:
        self.open = False
        if how == "reset":
            reset(self.writer)
        else:
            self.writer.close()

    async def pause(self) -> None:
        """What was sent may have arrived when the end comes, or not."""
        await asyncio.sleep(self.dice.choice([0, 0.002, 0.02]))


Show = Callable[[Exchange], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    name: str
    show: Show
    job: bool = True
    then: str = "unknown"
    early: bool = False  # Shown before the request's body is read.
    as_is: bool = False  # Legacy's own whole answer, odd as it is: clients get it unchanged.


def ended(how: str) -> Show:
    async def show(at: Exchange) -> None:
        await at.pause()
        await at.end(how)

    return show


def cut(part: str, how: str) -> Show:
    async def show(at: Exchange) -> None:
        body = at.text
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        chunked = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        await at.send(
            {
                "head": head[: at.dice.randrange(1, len(head) - 1)],
                "body": head + body[: at.dice.randrange(0, len(body))],
                # A chunk that holds all of the answer, and no last one: only its framing says that it was cut.
                "chunk": chunked + f"{len(body):x}\r\n".encode() + body + at.dice.choice([b"", b"\r\n", b"\r\n0\r\n"]),
            }[part]
        )
        await at.pause()
        await at.end(how)

    return show


def length(error: int) -> Show:
    async def show(at: Exchange) -> None:
        await at.say(200, at.text, length=len(at.text) + error)
        await at.pause()
        await at.end("close")

    return show


async def silent(at: Exchange) -> None:
    await asyncio.sleep(SLOW)
    await at.end("close")


async def late(at: Exchange) -> None:
    await asyncio.sleep(SLOW)
    await at.whole()


async def drip(at: Exchange) -> None:
    data = at.answer.head + at.answer.raw if at.answer else b""
    for place in range(64):
        await at.send(data[place : place + 1])
        await asyncio.sleep(0.001)
    await at.send(data[64:])


async def drip_for_ever(at: Exchange) -> None:
    data = at.answer.head + at.answer.raw if at.answer else b""
    for place in range(len(data)):
        await at.send(data[place : place + 1])
        await asyncio.sleep(SLOW / 30)


def body(make: Callable[[Exchange], bytes], status: int = 200, kind: str = "application/json", *lines: str) -> Show:
    async def show(at: Exchange) -> None:
        await at.say(status, make(at), kind, *lines)

    return show


def with_id(at: Exchange) -> bytes:
    values = ["../../x", "a\r\nX-Evil: 1", 'a"b', 7, None, "", "j" * 10_240, "a b", {"a": 1}, "é"]
    return json.dumps({**at.job, "job_id": at.dice.choice(values)}).encode()


def two_ids(at: Exchange) -> bytes:
    return at.text[:-1] + b', "job_id": "another-job"}'


def padded(size: int) -> Callable[[Exchange], bytes]:
    return lambda at: at.text[:-1] + b', "pad": "' + b"0" * size + b'"}'


def deep(at: Exchange) -> bytes:
    return at.text[:-1] + b', "deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def page(status: int, code: str = "") -> Show:
    text = f"<!DOCTYPE html><html><head><title>{status}</title></head><body><h1>Error {code or status}</h1>"
    text += f'<span class="cf-error-code">{code}</span></body></html>' if code else "</body></html>"
    return body(lambda at: text.encode(), status, "text/html; charset=UTF-8", "Server: cloudflare")


def edge_json(status: int, code: int) -> Show:
    return body(lambda at: json.dumps({"status": status, "error_code": code, "cloudflare_error": True}).encode(), status)


def refused(status: int, *lines: str) -> Show:
    return body(lambda at: b'{"error": "status as asked"}', status, "application/json", *lines)


async def redirected(at: Exchange) -> None:
    # Whoever followed it would start a second job.
    await at.say(307, b"", "text/plain", f"Location: {at.origin}{at.target}")


async def with_failed_job(at: Exchange) -> None:
    await at.say(500, json.dumps({**at.job, "status": "error", "error": "RunPod submission failed"}).encode())


async def answer_twice(at: Exchange) -> None:
    forged = b'{"job_id": "forged", "status": "processing"}'
    await at.whole()
    await at.say(200, forged)


async def interim_first(at: Exchange) -> None:
    await at.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
    await at.whole()


async def closed_after(at: Exchange) -> None:
    await at.whole()
    await at.pause()
    await at.end(at.dice.choice(["reset", "close"]))


async def no_http(at: Exchange) -> None:
    await at.send(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
    await at.end("close")


BROKEN = [
    Fault("reset, start unread", ended("reset"), job=False, early=True),
    Fault("reset before the answer, no job", ended("reset"), job=False),
    Fault("closed before the answer, no job", ended("close"), job=False),
    Fault("answer lost: reset", ended("reset")),
    Fault("answer lost: closed", ended("close")),
    Fault("reset mid-head", cut("head", "reset")),
    Fault("closed mid-head", cut("head", "close")),
    Fault("reset mid-body", cut("body", "reset")),
    Fault("closed mid-body", cut("body", "close")),
    Fault("last chunk missing", cut("chunk", "close")),
    Fault("Content-Length too large", length(7)),
    Fault("never answers", silent, job=False),
    Fault("answers too late", late),
    Fault("drips too slowly", drip_for_ever),
    Fault("2 MiB of JSON", body(padded(2 << 20))),
    Fault("no HTTP", no_http),
]

WORKERS = [
    *BROKEN,
    Fault("reset mid-upload", ended("reset"), job=False, early=True),
    Fault("Content-Length too small", length(-3)),
    Fault("drips", drip, then="accepted"),
    Fault("closed after the answer", closed_after, then="accepted"),
    Fault("103 before the answer", interim_first, then="accepted"),
    Fault("a second answer behind it", answer_twice, then="accepted"),
    Fault("malformed JSON", body(lambda at: at.text[: len(at.text) // 2])),
    Fault("HTML with 200", page(200)),
    Fault("empty 200", body(lambda at: b"")),
    Fault("no job_id", body(lambda at: b'{"status": "processing"}')),
    Fault("hostile job_id", body(with_id)),
    Fault("two job_ids", body(two_ids)),
    Fault("not UTF-8", body(lambda at: at.text[:-1] + b', "note": "\xff\xfe\xc3("}')),
    Fault("gzip", body(lambda at: gzip.compress(at.text), 200, "application/json", "Content-Encoding: gzip")),
    Fault("100,000 deep JSON", body(deep)),
    Fault("307", redirected),
    Fault("404", refused(404), job=False, then="legacy"),
    Fault("405", refused(405), job=False, then="legacy"),
    Fault("429", refused(429, "Retry-After: 1"), job=False, then="legacy"),
    Fault("503 JSON", refused(503, "Retry-After: 1"), job=False, then="legacy"),
    Fault("503 HTML", page(503)),
    *[Fault(str(status), refused(status), job=False, then="rejected") for status in (400, 401, 403, 409, 413, 415, 422)],
    Fault("500 with job_id", with_failed_job, then="rejected"),
    Fault("500 without job_id", refused(500)),
    *[Fault(f"{status} HTML", page(status)) for status in (502, 504, 520, 522, 524, 526, 530)],
    Fault("edge 1101 HTML", page(500, "1101")),
    Fault("edge 1101 JSON", edge_json(500, 1101)),
    Fault("edge 1102 JSON in a 503", edge_json(503, 1102)),
    Fault("edge 1015 HTML", page(429, "1015"), job=False, then="legacy"),
    Fault("edge 1027 JSON", edge_json(429, 1027), job=False, then="legacy"),
]

LEGACY = [
    *BROKEN,
    Fault("closed after the answer", closed_after, then="accepted"),
    Fault("malformed JSON", body(lambda at: at.text[: len(at.text) // 2]), as_is=True, then="passed"),
    Fault("no job_id", body(lambda at: b'{"status": "processing"}'), as_is=True, then="passed"),
    Fault("hostile job_id", body(with_id), as_is=True, then="passed"),
    Fault("307", redirected, then="passed"),
    Fault("429", refused(429), job=False, then="passed"),
    Fault("500 after the job", refused(500), then="passed"),
    Fault("500 without a job", refused(500), job=False, then="passed"),
    Fault("502 HTML", page(502), then="passed"),
]

# For polls and downloads: nothing of these may look whole.
POLLS = {
    fault.name.replace(" ", "-"): fault
    for fault in BROKEN
    if fault.name in ("answer lost: reset", "reset mid-head", "closed mid-body", "last chunk missing", "no HTTP")
}
