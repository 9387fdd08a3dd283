"""Export jobs: start, status, and the progress WebSocket."""

import asyncio
import json
import os
import time
import uuid

import httpx
import store
from fastapi import APIRouter, Depends, HTTPException, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ConfigDict

RUNPOD = os.environ.get("RUNPOD_URL", "http://127.0.0.1:8001")
STATES = {"IN_QUEUE": "processing", "IN_PROGRESS": "processing", "COMPLETED": "complete"}

router = APIRouter()
runpod = httpx.AsyncClient(base_url=RUNPOD, timeout=10)


class HighlightRegion(BaseModel):
    start_frame: int
    end_frame: int
    x: float
    y: float
    radius_x: float
    radius_y: float
    opacity: float = 0.3
    color: str = "#ffffff"


class OverlayExport(BaseModel):
    project_id: int
    highlight_regions: list[HighlightRegion]
    effect_type: str = "brightness_boost"


class FramingExport(BaseModel):
    model_config = ConfigDict(extra="allow")
    project_id: int
    crop_keyframes: list[dict] = []
    target_fps: int = 30


class AnnotateExport(BaseModel):
    model_config = ConfigDict(extra="allow")
    project_id: int
    clips: list[dict] = []


@router.post("/api/export/overlay/start")
async def start_overlay(request: OverlayExport, user: str = Depends(store.current_user)) -> dict:
    return await start("overlay", request, user)


@router.post("/api/export/framing/start")
async def start_framing(request: FramingExport, user: str = Depends(store.current_user)) -> dict:
    return await start("framing", request, user)


@router.post("/api/export/annotate/start")
async def start_annotate(request: AnnotateExport, user: str = Depends(store.current_user)) -> dict:
    return await start("annotate", request, user)


async def start(export: str, request: BaseModel, user: str) -> dict:
    video = await asyncio.to_thread(store.newest_video, user, request.project_id)
    if video is None:
        raise HTTPException(400, "No working video found")
    job, key = str(uuid.uuid4()), f"working_videos/{video['filename']}"
    await asyncio.to_thread(
        store.execute,
        user,
        "INSERT INTO export_jobs (id, project_id, type, status, progress, input_key, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        job,
        request.project_id,
        export,
        "processing",
        0,
        key,
        time.time(),
    )
    params = request.model_dump(exclude={"project_id"})
    body = {
        "input": {
            "job_id": job,
            "user": user,
            "type": export,
            "project_id": request.project_id,
            "input_key": key,
            "params": params,
            "backend": "legacy",
        }
    }
    try:
        answer = (await runpod.post("/run", json=body)).raise_for_status().json()
    except (httpx.HTTPError, ValueError) as problem:
        await save(user, job, "error", 0, None, f"RunPod: {problem}")
        raise HTTPException(500, "Export could not be submitted") from problem
    await asyncio.to_thread(store.execute, user, "UPDATE export_jobs SET runpod_id = ? WHERE id = ?", answer["id"], job)
    return {"job_id": job, "status": "processing"}


async def save(user: str, job: str, status: str, progress: int, output: str | None, error: str | None) -> None:
    await asyncio.to_thread(
        store.execute,
        user,
        "UPDATE export_jobs SET status = ?, progress = ?, output_key = ?, error = ? WHERE id = ?",
        status,
        progress,
        output,
        error,
        job,
    )


async def look(user: str, job: str, export: str | None = None) -> dict | None:
    """The job as a poll shows it, after asking RunPod; None if this user has no such job."""
    rows = await asyncio.to_thread(store.query, user, "SELECT * FROM export_jobs WHERE id = ?", job)
    if not rows or export not in (None, rows[0]["type"]):
        return None
    row = rows[0]
    shown = {"job_id": job, **{key: row[key] for key in ("status", "progress", "output_key", "error")}}
    if row["runpod_id"] is None or row["status"] in ("complete", "error"):
        return shown
    try:
        answer = (await runpod.get(f"/status/{row['runpod_id']}")).raise_for_status().json()
    except (httpx.HTTPError, ValueError):
        return shown  # RunPod is away: the last that is known.
    output = answer.get("output") or {}
    shown["status"] = STATES.get(answer["status"], "error")
    shown["progress"] = output.get("progress", 0)
    shown["output_key"] = output.get("output_key")
    if shown["status"] == "error":
        shown["error"] = answer.get("error") or answer["status"]
    if shown["progress"] != row["progress"] or shown["status"] != row["status"]:
        await save(user, job, shown["status"], shown["progress"], shown["output_key"], shown["error"])
    return shown


@router.get("/api/export/{export}/status/{job_id}")
async def status(export: str, job_id: str, user: str = Depends(store.current_user)) -> dict:
    found = await look(user, job_id, export) if export in ("overlay", "framing", "annotate") else None
    if found is None:
        raise HTTPException(404, "Job not found")
    return found


@router.websocket("/ws/export/{export_id}")
async def progress(socket: WebSocket, export_id: str) -> None:
    """`ping` → `pong`; JSON progress; `close CODE REASON`, `push N`, `echo TEXT` are for tests; bytes come back."""
    user = store.clean_user(socket.headers.get("x-user-id", socket.query_params.get("user", "a")))
    offered = socket.scope["subprotocols"]
    await socket.accept(subprotocol=offered[0] if offered else None)
    pushes = asyncio.create_task(push_progress(socket, user, export_id))
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if message.get("bytes") is not None:
                await socket.send_bytes(message["bytes"])
                continue
            command, _, rest = message["text"].partition(" ")
            if command == "ping":
                await socket.send_text("pong")
            elif command == "echo":
                await socket.send_text(rest)
            elif command == "push":
                for number in range(int(rest)):
                    await socket.send_text(json.dumps({"type": "progress", "progress": number}))
            elif command == "close":
                code, _, reason = rest.partition(" ")
                await socket.close(int(code), reason)
                return
    except WebSocketDisconnect:
        return
    finally:
        pushes.cancel()


async def push_progress(socket: WebSocket, user: str, export_id: str) -> None:
    last = None
    while (job := await look(user, export_id)) is not None:
        if job != last:
            await socket.send_json({"type": "progress", **job})
            last = job
        if job["status"] in ("complete", "error"):
            return
        await asyncio.sleep(0.2)
