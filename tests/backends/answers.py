"""The bad answers that the Python parts can give: one function per mode, each returning what goes on the wire."""

import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

CHUNK = 64 * 1024

EDGE = {
    1015: (429, "You are being rate limited", "rate_limited"),
    1027: (429, "This website has been temporarily rate limited", "daily_quota"),
    1101: (500, "Worker threw exception", "worker_exception"),
    1102: (503, "Worker exceeded resource limits", "worker_limits"),
}


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: Iterable[bytes] = ()

    @staticmethod
    def json(status: int, value: Any) -> "Answer":
        return Answer.of(status, "application/json", json.dumps(value))

    @staticmethod
    def of(status: int, content_type: str, body: str | bytes) -> "Answer":
        data = body.encode() if isinstance(body, str) else body
        headers = [("content-type", content_type), ("content-length", str(len(data)))]
        return Answer(status, headers, [data])


def status_override(fault: dict, job: dict) -> Answer:
    """`{"mode": "answer", "status": 503, "body": "json" | "html" | "empty" | any text, "json": any value}`"""
    status = fault.get("status", 500)
    if "json" in fault:
        return Answer.json(status, fault["json"])
    body = fault.get("body", "json")
    if body == "empty":
        return Answer(status, [("content-length", "0")])
    if body == "html":
        page = f"<!DOCTYPE html><html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>"
        return Answer.of(status, "text/html; charset=UTF-8", page)
    if body == "json":
        return Answer.json(status, {"error": f"status {status}"})
    return Answer.of(status, fault.get("content_type", "text/plain"), body)


def edge(fault: dict, job: dict) -> Answer:
    """`{"mode": "edge", "code": 1015, "form": "html" | "json" | "text"}`: a page of Cloudflare's edge."""
    code = fault.get("code", 1101)
    status, title, name = EDGE.get(code, (code if 500 <= code < 600 else 500, f"Error {code}", f"error_{code}"))
    status = fault.get("status", status)
    form = fault.get("form", "html")
    if form == "json":
        value = {
            "type": f"https://example.com/{code}",
            "title": f"Error {code}: {title}",
            "status": status,
            "detail": title,
            "error_code": code,
            "error_name": name,
            "cloudflare_error": True,
        }
        answer = Answer.json(status, value)
    elif form == "text":
        answer = Answer.of(status, "text/plain; charset=UTF-8", f"error code: {code}")
    else:
        page = (
            f'<!DOCTYPE html>\n<html lang="en-US"><head><title>{title} | app | Cloudflare</title></head><body>'
            f'<h1><span class="cf-error-type">Error</span> <span class="cf-error-code">{code}</span></h1>'
            f"<h2>{title}</h2></body></html>"
        )
        answer = Answer.of(status, "text/html; charset=UTF-8", page)
    answer.headers.append(("server", "cloudflare"))
    return answer


def redirect(fault: dict, job: dict) -> Answer:
    location = fault.get("location", "http://127.0.0.1:1/elsewhere")
    return Answer(fault.get("status", 307), [("location", location), ("content-length", "0")])


def malformed_json(fault: dict, job: dict) -> Answer:
    return Answer.of(fault.get("status", 200), "application/json", '{"job_id": "' + job["job_id"] + '", "status": ')


def duplicate_keys(fault: dict, job: dict) -> Answer:
    text = '{"job_id": "%s", "status": "processing", "job_id": "%s"}' % (
        job["job_id"],
        fault.get("second", "other-job"),
    )
    return Answer.of(200, "application/json", text)


def no_job_id(fault: dict, job: dict) -> Answer:
    return Answer.json(fault.get("status", 200), {"status": "processing"})


def job_id(fault: dict, job: dict) -> Answer:
    """`{"mode": "job_id", "value": anything}`; `"length": n` makes an id of n letters."""
    value = "j" * fault["length"] if "length" in fault else fault.get("value")
    return Answer.json(fault.get("status", 200), {**job, "job_id": value})


def error_with_job(fault: dict, job: dict) -> Answer:
    value = {"job_id": job["job_id"], "status": "error", "error": fault.get("error", "RunPod submission failed")}
    return Answer.json(fault.get("status", 500), value)


def gzip_whole(fault: dict, job: dict) -> Answer:
    data = gzip.compress(json.dumps(job).encode())
    answer = Answer.of(200, "application/json", data)
    answer.headers.append(("content-encoding", "gzip"))
    return answer


def gzip_bomb(fault: dict, job: dict) -> Answer:
    """Some 100 KiB that inflate to `bytes` (default 100 MiB) of JSON."""
    head, tail = json.dumps(job)[:-1].encode() + b', "pad": "', b'"}'
    data = gzip.compress(head + b"0" * fault.get("bytes", 100 << 20) + tail)
    answer = Answer.of(200, "application/json", data)
    answer.headers.append(("content-encoding", "gzip"))
    return answer


def huge_json(fault: dict, job: dict) -> Answer:
    """`bytes` (default 100 MiB) of valid JSON; `"chunked": true` gives no length beforehand."""
    head, tail, pad = json.dumps(job)[:-1].encode() + b', "pad": "', b'"}', fault.get("bytes", 100 << 20)

    def parts() -> Iterator[bytes]:
        yield head
        for start in range(0, pad, CHUNK):
            yield b"0" * min(CHUNK, pad - start)
        yield tail

    headers = [("content-type", "application/json")]
    if not fault.get("chunked"):
        headers.append(("content-length", str(len(head) + pad + len(tail))))
    return Answer(200, headers, parts())


def deep_json(fault: dict, job: dict) -> Answer:
    depth = fault.get("depth", 100_000)
    return Answer.of(200, "application/json", json.dumps(job)[:-1] + ', "deep": ' + "[" * depth + "]" * depth + "}")


def non_utf8(fault: dict, job: dict) -> Answer:
    return Answer.of(200, "application/json", json.dumps(job)[:-1].encode() + b', "note": "\xff\xfe\xc3("}')


def garbage(fault: dict, job: dict) -> Answer:
    return Answer.of(fault.get("status", 200), "application/json", b"\x00\x01 this is no JSON \x7f<>")


def other_job(fault: dict, job: dict) -> Answer:
    value = {
        "job_id": fault.get("value", "00000000-0000-4000-8000-000000000000"),
        "status": "complete",
        "progress": 100,
    }
    return Answer.json(200, value)


MODES = {
    "answer": status_override,
    "edge": edge,
    "redirect": redirect,
    "malformed_json": malformed_json,
    "duplicate_keys": duplicate_keys,
    "no_job_id": no_job_id,
    "job_id": job_id,
    "error_with_job": error_with_job,
    "gzip": gzip_whole,
    "gzip_bomb": gzip_bomb,
    "huge_json": huge_json,
    "deep_json": deep_json,
    "non_utf8": non_utf8,
    "garbage": garbage,
    "other_job": other_job,
}

# These say "no job was made" unless the switch says otherwise.
WITHOUT_JOB = {"answer", "edge", "redirect"}
