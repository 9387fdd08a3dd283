"""The rest of the JSON API: projects and their working videos, and a login that sets cookies."""

import asyncio

import store
from fastapi import APIRouter, Depends, HTTPException, Request, Response
from pydantic import BaseModel

router = APIRouter()


class Project(BaseModel):
    name: str
    aspect_ratio: str | None = "16:9"


class WorkingVideo(BaseModel):
    filename: str


@router.get("/api/projects")
async def list_projects(user: str = Depends(store.current_user)) -> list[dict]:
    return await asyncio.to_thread(store.query, user, "SELECT * FROM projects ORDER BY id")


@router.post("/api/projects", status_code=201)
async def create_project(project: Project, response: Response, user: str = Depends(store.current_user)) -> dict:
    new = await asyncio.to_thread(
        store.execute,
        user,
        "INSERT INTO projects (name, aspect_ratio) VALUES (?, ?)",
        project.name,
        project.aspect_ratio,
    )
    response.headers["Location"] = f"/api/projects/{new}"
    return {"id": new, **project.model_dump()}


@router.get("/api/projects/{project_id}")
async def get_project(project_id: int, user: str = Depends(store.current_user)) -> dict:
    rows = await asyncio.to_thread(store.query, user, "SELECT * FROM projects WHERE id = ?", project_id)
    if not rows:
        raise HTTPException(404, "Project not found")
    return rows[0]


@router.patch("/api/projects/{project_id}")
async def rename_project(project_id: int, project: Project, user: str = Depends(store.current_user)) -> dict:
    changed = await asyncio.to_thread(
        store.execute,
        user,
        "UPDATE projects SET name = ?, aspect_ratio = ? WHERE id = ?",
        project.name,
        project.aspect_ratio,
        project_id,
    )
    if not changed:
        raise HTTPException(404, "Project not found")
    return {"id": project_id, **project.model_dump()}


@router.delete("/api/projects/{project_id}", status_code=204)
async def delete_project(project_id: int, user: str = Depends(store.current_user)) -> None:
    await asyncio.to_thread(store.execute, user, "DELETE FROM projects WHERE id = ?", project_id)


@router.get("/api/projects/{project_id}/working-video")
async def get_working_video(project_id: int, user: str = Depends(store.current_user)) -> dict:
    video = await asyncio.to_thread(store.newest_video, user, project_id)
    if video is None:
        raise HTTPException(404, "No working video found")
    return {"project_id": project_id, "filename": video["filename"], "version": video["version"]}


@router.post("/api/projects/{project_id}/working-video", status_code=201)
async def add_working_video(project_id: int, video: WorkingVideo, user: str = Depends(store.current_user)) -> dict:
    return await asyncio.to_thread(store.add_video, user, project_id, video.filename)


@router.post("/api/login")
async def login(request: Request, response: Response) -> dict:
    response.set_cookie("session", "s3cr3t", httponly=True, samesite="lax", path="/")
    response.set_cookie("theme", "dark", expires="Wed, 21 Oct 2037 07:28:00 GMT")
    response.set_cookie("csrf", "t0k3n", secure=True)
    return {"user": store.current_user(request), "cookies": request.cookies}
