"""One SQLite database per user, as the legacy backend keeps them: `$LEGACY_DATA/user_data/<user>/database.sqlite`."""

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from fastapi import Request
from switchboard import clean_user

DATA = Path(os.environ.get("LEGACY_DATA", "data")) / "user_data"

SCHEMA = """
CREATE TABLE IF NOT EXISTS projects (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, aspect_ratio TEXT);
CREATE TABLE IF NOT EXISTS working_videos (
    id INTEGER PRIMARY KEY AUTOINCREMENT, project_id INTEGER NOT NULL, filename TEXT,
    version INTEGER NOT NULL DEFAULT 1, created_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS export_jobs (
    id TEXT PRIMARY KEY, project_id INTEGER NOT NULL, type TEXT NOT NULL, status TEXT NOT NULL,
    progress INTEGER NOT NULL, runpod_id TEXT, input_key TEXT, output_key TEXT, error TEXT, created_at REAL NOT NULL);
"""

_ready: set[str] = set()


def current_user(request: Request) -> str:
    """Who asks: `X-User-ID`, filtered; `a` for whoever says nothing."""
    return clean_user(request.headers.get("X-User-ID", "a"))


def connect(user: str) -> sqlite3.Connection:
    folder = DATA / user
    if user not in _ready or not (folder / "database.sqlite").exists():
        folder.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(folder / "database.sqlite", timeout=5)) as new:
            new.execute("PRAGMA journal_mode = delete")
            new.executescript(SCHEMA)
        _ready.add(user)
    connection = sqlite3.connect(folder / "database.sqlite", timeout=5)
    connection.row_factory = sqlite3.Row
    return connection


def query(user: str, sql: str, *values: object) -> list[dict]:
    with closing(connect(user)) as database:
        return [dict(row) for row in database.execute(sql, values)]


def execute(user: str, sql: str, *values: object) -> int:
    with closing(connect(user)) as database, database:
        cursor = database.execute(sql, values)
        return cursor.lastrowid if sql.startswith("INSERT") else cursor.rowcount


def newest_video(user: str, project_id: int) -> dict | None:
    rows = query(user, "SELECT * FROM working_videos WHERE project_id = ? ORDER BY version DESC LIMIT 1", project_id)
    return rows[0] if rows else None


def add_video(user: str, project_id: int, filename: str) -> dict:
    last = newest_video(user, project_id)
    version = last["version"] + 1 if last else 1
    execute(
        user,
        "INSERT INTO working_videos (project_id, filename, version, created_at) VALUES (?, ?, ?, ?)",
        project_id,
        filename,
        version,
        time.time(),
    )
    return {"project_id": project_id, "filename": filename, "version": version}


def all_jobs() -> list[dict]:
    """Every job of every user, oldest first."""
    jobs = []
    for file in DATA.glob("*/database.sqlite"):
        user = file.parent.name
        rows = query(user, "SELECT *, id AS job_id FROM export_jobs")
        jobs += [{**row, "user": user} for row in rows]
    return sorted(jobs, key=lambda job: job["created_at"])
