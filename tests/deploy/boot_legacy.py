"""A small backend for the probe in the booted container: answers everything, starts jobs, echoes WebSockets.

It is the collector of traces, too: how large each export is goes to /root/traces, a line each.
"""

import asyncio
import base64
import hashlib
import itertools
import json

NUMBERS = itertools.count(1)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while head := await reader.readuntil(b"\r\n\r\n"):
        lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        sent = await reader.readexactly(int(fields.get("content-length", "0")))
        if lines[0].startswith("POST /v1/traces "):
            with open("/root/traces", "a", encoding="ascii") as traces:
                print(len(sent), file=traces)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n")
            continue
        if fields.get("upgrade", "").lower() == "websocket":
            guid = fields["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            accept = base64.b64encode(hashlib.sha1(guid.encode()).digest()).decode()
            writer.write(f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode())
            while data := await reader.read(4096):
                # Whatever it is, it is answered with pong; a close ends it.
                if data[0] & 0xF == 8:
                    break
                writer.write(b"\x81\x04pong")
            break
        body = {"job_id": f"job-{next(NUMBERS)}", "status": "processing"} if lines[0].startswith("POST") else {"ok": True}
        content = json.dumps(body).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(content), content))
        await writer.drain()
    writer.close()


async def quiet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await serve(reader, writer)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(quiet, "127.0.0.1", 8000, backlog=1024)
    await server.serve_forever()


asyncio.run(main())
