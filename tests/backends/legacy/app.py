"""The legacy backend: FastAPI, one SQLite database per user, exports by RunPod. Started by `../run.py legacy`."""

import asyncio
import os

import media
import projects
import store
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from pydantic import BaseModel
from switchboard import Switchboard

import exports

api = FastAPI(title="Reel Ballers")
api.add_middleware(
    CORSMiddleware,
    allow_origins=["http://localhost:5173", "https://app.reelballers.com"],
    allow_credentials=True,
    allow_methods=["*"],
    allow_headers=["*"],
)
api.include_router(exports.router)
api.include_router(projects.router)
api.include_router(media.router)


@api.get("/api/health")
def health() -> dict:
    return {"status": "ok"}


class Video(BaseModel):
    user: str = "a"
    project_id: int
    filename: str


@api.post("/_test/videos")
async def add_video(video: Video) -> dict:
    return await asyncio.to_thread(store.add_video, store.clean_user(video.user), video.project_id, video.filename)


@api.get("/_test/jobs")
async def all_jobs() -> list[dict]:
    return await asyncio.to_thread(store.all_jobs)


app = Switchboard(
    api,
    targets=[
        ("start", "POST", r"/api/export/(?P<type>overlay|framing|annotate)/start"),
        ("status", "GET", r"/api/export/(?P<type>overlay|framing|annotate)/status/[^/]+"),
    ],
)


if __name__ == "__main__":
    from serve import serve

    serve(app, int(os.environ.get("PORT", "0")), os.environ.get("STAY") == "1")
