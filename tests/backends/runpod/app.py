"""A simulator of RunPod's REST surface: jobs advance with time. Started by `../run.py runpod`."""

import asyncio
import json
import os
import time
import uuid
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from switchboard import Switchboard

SECONDS = float(os.environ.get("RUNPOD_SECONDS", "3"))
QUEUE_SHARE = 0.1  # Of a job's time is spent in the queue.

jobs: dict[str, dict[str, Any]] = {}
rules: list[dict[str, Any]] = []
hooks: set[asyncio.Task] = set()
client = httpx.AsyncClient(timeout=5)


def rule_for(given: dict) -> dict:
    """The newest rule whose `match` agrees with the job's input in every key."""
    for rule in reversed(rules):
        if all(given.get(key) == value for key, value in rule.get("match", {}).items()):
            return rule
    return {}


def look(job: dict) -> dict:
    """What a poll of RunPod would show now."""
    share = (time.monotonic() - job["started"]) / max(job["seconds"], 1e-6)
    shown: dict[str, Any] = {"id": job["id"]}
    if job["cancelled"]:
        return {**shown, "status": "CANCELLED"}
    if share < QUEUE_SHARE:
        return {**shown, "status": "IN_QUEUE", "delayTime": 0}
    if share < 1:
        return {**shown, "status": "IN_PROGRESS", "output": {"progress": int(share * 100)}}
    if job["outcome"] == "COMPLETED":
        output = {"progress": 100, "output_key": f"exports/{job['input'].get('job_id', job['id'])}.mp4"}
        return {**shown, "status": "COMPLETED", "output": output, "executionTime": int(job["seconds"] * 1000)}
    return {**shown, "status": job["outcome"], "error": job["error"]}


async def call_back(job: dict) -> None:
    await asyncio.sleep(job["seconds"])
    for pause in (0.5, 2, 5):  # RunPod tries a few times, and then no more.
        try:
            if (await client.post(job["webhook"], json=look(job))).is_success:
                return
        except httpx.HTTPError:
            pass
        await asyncio.sleep(pause)


async def run(request: Request) -> JSONResponse:
    body = await request.json()
    given = body.get("input") or {}
    rule = rule_for(given)
    job = {
        "id": f"{uuid.uuid4()}-u1",
        "input": given,
        "webhook": body.get("webhook"),
        "started": time.monotonic(),
        "at": time.time(),
        "seconds": float(rule.get("seconds", SECONDS)),
        "outcome": rule.get("outcome", "COMPLETED"),
        "error": rule.get("error", "out of GPU memory"),
        "cancelled": False,
    }
    jobs[job["id"]] = job
    if job["webhook"]:
        task = asyncio.create_task(call_back(job))
        hooks.add(task)
        task.add_done_callback(hooks.discard)
    return JSONResponse({"id": job["id"], "status": "IN_QUEUE"})


async def status(request: Request) -> JSONResponse:
    job = jobs.get(request.path_params["id"])
    return JSONResponse(look(job)) if job else JSONResponse({"error": "job not found"}, 404)


async def cancel(request: Request) -> JSONResponse:
    job = jobs.get(request.path_params["id"])
    if job is None:
        return JSONResponse({"error": "job not found"}, 404)
    job["cancelled"] = True
    return JSONResponse({"id": job["id"], "status": "CANCELLED"})


async def all_jobs(request: Request) -> JSONResponse:
    """Every paid start, oldest first."""
    return JSONResponse([{**job, "state": look(job)["status"]} for job in jobs.values()])


async def add_rule(request: Request) -> JSONResponse:
    rules.append(json.loads(await request.body()))
    return JSONResponse(rules)


def reset() -> None:
    jobs.clear()
    rules.clear()


app = Switchboard(
    Starlette(
        routes=[
            Route("/run", run, methods=["POST"]),
            Route("/status/{id}", status),
            Route("/cancel/{id}", cancel, methods=["POST"]),
            Route("/_test/jobs", all_jobs),
            Route("/_test/rules", add_rule, methods=["POST"]),
        ]
    ),
    targets=[("run", "POST", r"/run"), ("status", "GET", r"/status/[^/]+"), ("cancel", "POST", r"/cancel/[^/]+")],
    on_reset=reset,
)


if __name__ == "__main__":
    from serve import serve

    serve(app, int(os.environ.get("PORT", "0")), os.environ.get("STAY") == "1")
