"""Everything big, slow or odd: uploads, ranged downloads, event streams, chunks, and an echo of the request."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator

from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from fastapi.responses import StreamingResponse

router = APIRouter()

BLOCK = 64 * 1024
FIRST = bytes((i ^ (i >> 8)) & 0xFF for i in range(BLOCK))


def block(number: int) -> bytes:
    """Byte i of every generated file is `(i ^ i>>8 ^ i>>16) & 0xff`."""
    flip = number & 0xFF
    return FIRST.translate(bytes(value ^ flip for value in range(256)))


async def generated(start: int, end: int) -> AsyncIterator[bytes]:
    while start < end:
        number, offset = divmod(start, BLOCK)
        piece = block(number)[offset : offset + end - start]
        yield piece
        start += len(piece)


def wanted_range(header: str | None, size: int) -> tuple[int, int] | None | str:
    """First and last + 1 of a single byte range; None for the whole file; "bad" for a 416."""
    if header is None or not header.startswith("bytes=") or "," in header:
        return None
    first, _, last = header[6:].partition("-")
    if not (first or "0").isdigit() or not (last or "0").isdigit() or first == last == "":
        return None
    if first == "":
        return (max(0, size - int(last)), size) if int(last) else "bad"
    start, end = int(first), min(int(last) + 1 if last else size, size)
    return (start, end) if start < end else "bad"


@router.api_route("/files/{size}", methods=["GET", "HEAD"])
async def download(size: int, request: Request) -> Response:
    tag = f'"generated-{size}"'
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": tag,
        "Last-Modified": "Wed, 01 Jan 2025 00:00:00 GMT",
        "Content-Disposition": f'attachment; filename="{size}.mp4"',
    }
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    part = wanted_range(request.headers.get("range"), size)
    if request.headers.get("if-range", tag) != tag:
        part = None
    if part == "bad":
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{size}"})
    start, end = part or (0, size)
    headers["Content-Length"] = str(end - start)
    if part:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    body = generated(start, end if request.method == "GET" else start)
    return StreamingResponse(body, 206 if part else 200, headers, media_type="video/mp4")


@router.post("/api/upload")
async def upload(file: UploadFile = File(), note: str = Form("")) -> dict:
    digest, size = hashlib.sha256(), 0
    while piece := await file.read(1 << 20):
        digest.update(piece)
        size += len(piece)
    return {
        "filename": file.filename,
        "content_type": file.content_type,
        "note": note,
        "size": size,
        "sha256": digest.hexdigest(),
    }


@router.api_route("/api/sink", methods=["POST", "PUT"])
async def sink(request: Request) -> dict:
    """Takes any body as it streams in, and tells its length and hash."""
    digest, size, pieces = hashlib.sha256(), 0, 0
    async for piece in request.stream():
        digest.update(piece)
        size, pieces = size + len(piece), pieces + 1
    return {"size": size, "pieces": pieces, "sha256": digest.hexdigest()}


@router.get("/api/events")
async def events(n: int = 5, interval_ms: int = 100) -> StreamingResponse:
    """Server-sent events; `n=0` never ends."""

    async def stream() -> AsyncIterator[bytes]:
        number = 0
        while n == 0 or number < n:
            yield f"id: {number}\nevent: progress\ndata: {json.dumps({'progress': number})}\n\n".encode()
            number += 1
            await asyncio.sleep(interval_ms / 1000)

    return StreamingResponse(stream(), headers={"Cache-Control": "no-cache"}, media_type="text/event-stream")


@router.get("/api/chunked")
async def chunked(sizes: str = "1,10,100", delay_ms: int = 0) -> StreamingResponse:
    """A chunked answer whose chunks have these sizes."""

    async def stream() -> AsyncIterator[bytes]:
        for number, size in enumerate(sizes.split(",")):
            yield bytes([ord("a") + number % 26]) * int(size)
            await asyncio.sleep(delay_ms / 1000)

    return StreamingResponse(stream(), media_type="application/octet-stream")


@router.api_route("/api/status/{code}", methods=["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"])
async def any_status(code: int) -> Response:
    """Any status at all, with a body where one may be."""
    body = b"" if code in (204, 304) else json.dumps({"detail": f"status {code}"}).encode()
    return Response(body, code, media_type="application/json")


@router.api_route("/api/echo", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@router.api_route("/api/echo/{rest:path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
async def echo(request: Request) -> dict:
    """The request as it arrived: raw path and query, headers in order and their own case, and a hash of the body."""
    body = await request.body()
    scope = request.scope
    raw = scope.get("test.headers") or scope["headers"]
    return {
        "method": scope["method"],
        "raw_path": scope["raw_path"].decode("latin-1"),
        "raw_query": scope["query_string"].decode("latin-1"),
        "http_version": scope["http_version"],
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in raw],
        "body_length": len(body),
        "body_sha256": hashlib.sha256(body).hexdigest(),
        "client": list(scope["client"]),
    }
