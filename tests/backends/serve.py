"""Runs one Python part on uvicorn, in this process: port 0, a ready line, an end when standard input closes."""

import itertools
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

CONNECTIONS = itertools.count(1)


class Protocol(HttpToolsProtocol):
    """uvicorn's own protocol; it also hands on header names as they came, and the connection."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.number = next(CONNECTIONS)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["test.headers"] = []
        self.scope["test.connection"] = self.number
        self.scope["test.transport"] = self.transport

    def on_header(self, name: bytes, value: bytes) -> None:
        self.scope["test.headers"].append((name, value))
        super().on_header(name, value)


class Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        port = sockets[0].getsockname()[1]
        print(json.dumps({"ready": True, "url": f"http://127.0.0.1:{port}", "pid": os.getpid()}), flush=True)


def end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


def serve(app: Callable, port: int, stay: bool) -> None:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((os.environ.get("HOST", "127.0.0.1"), port))
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="websockets-sansio",  # What `--ws auto` picks when `websockets` is there.
        access_log=False,
        log_level="warning",
        timeout_keep_alive=5,
        timeout_graceful_shutdown=2,
        lifespan="off",
    )
    if not stay:
        threading.Thread(target=end_with_stdin, daemon=True).start()
    Server(config).run([listener])
    sys.exit(0)
