"""HTTP/1.1 as bytes on a connection, read strictly: whoever reads here knows a whole message from a cut one."""

import asyncio
import socket
import struct
from dataclasses import dataclass, field

HEAD_MAX = 256 * 1024
BODY_MAX = 64 << 20


class Cut(Exception):
    """The connection ended, or what came is no HTTP; `begun` says whether any byte of the message had come."""

    def __init__(self, what: str, begun: bool) -> None:
        super().__init__(what)
        self.begun = begun


@dataclass
class Message:
    """A request or an answer. `raw` is its body as it came, chunks and all; `body` is what it means."""

    line: str
    fields: list[tuple[str, str]]
    head: bytes
    raw: bytes = b""
    body: bytes = b""
    names: dict[str, str] = field(default_factory=dict)

    def get(self, name: str) -> str | None:
        return self.names.get(name)

    @property
    def method(self) -> str:
        return self.line.split(" ", 1)[0]

    @property
    def target(self) -> str:
        return self.line.split(" ")[1]

    @property
    def status(self) -> int:
        return int(self.line.split(" ")[1])


async def read_head(reader: asyncio.StreamReader) -> Message:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as end:
        raise Cut("ended in the head", bool(end.partial)) from end
    except asyncio.LimitOverrunError as end:
        raise Cut("endless head", True) from end
    except OSError as end:
        raise Cut(type(end).__name__, False) from end
    line, *rest = head[:-4].decode("latin-1").split("\r\n")
    fields = [(name, value.strip()) for name, _, value in (text.partition(":") for text in rest)]
    return Message(line, fields, head, names={name.lower(): value for name, value in fields})


async def read_request(reader: asyncio.StreamReader) -> Message:
    request = await read_head(reader)
    await read_body(reader, request, until_end=False)
    return request


async def read_answer(reader: asyncio.StreamReader, method: str) -> Message:
    while True:
        answer = await read_head(reader)
        parts = answer.line.split(" ")
        if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdecimal():
            raise Cut("no HTTP", True)
        if answer.status >= 200:
            break
    if method != "HEAD" and answer.status not in (204, 304):
        await read_body(reader, answer, until_end=True)
    return answer


async def read_body(reader: asyncio.StreamReader, message: Message, until_end: bool) -> None:
    length, encoding = message.get("content-length"), message.get("transfer-encoding")
    try:
        if encoding is not None:
            await read_chunks(reader, message)
        elif length is not None:
            message.raw = message.body = await reader.readexactly(min(int(length), BODY_MAX))
        elif until_end:
            message.raw = message.body = await reader.read(-1)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, OSError) as end:
        raise Cut(f"ended in the body: {type(end).__name__}", True) from end


async def read_chunks(reader: asyncio.StreamReader, message: Message) -> None:
    raw, body = [], []
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0].strip(), 16)
        piece = await reader.readexactly(size + 2) if size else b""
        raw += [line, piece]
        body.append(piece[:-2])
        if size == 0:
            while (trailer := await reader.readuntil(b"\r\n")) != b"\r\n":
                raw.append(trailer)
            raw.append(b"\r\n")
            message.raw, message.body = b"".join(raw), b"".join(body)
            return


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection by RST: lingering for 0 s makes the kernel send it."""
    raw = writer.get_extra_info("socket")
    try:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass  # It has ended already.
    writer.transport.abort()
