"""S1 to S6 and S8 to S10: what is asked, of whom, and what is counted."""

import json
import sqlite3
import statistics
import time
import urllib.request
from pathlib import Path
from typing import Any

import measure
import peers
import setup
from bench import GATEWAY, Bench, Result
from load import Load
from peers import NJS, Proxy

KIB = {"paths": ["/kib"], "expect": {"letters": ["x", 1024]}}
BIG = 256 << 20
PROJECT = 12
USER = ["X-User-Id: a"]
CPU = "µs of CPU per request"


def start_body() -> str:
    """1.6 KB, as the frontend sends it."""
    region = {"start_frame": 0, "end_frame": 90, "x": 640.5, "y": 360.0, "radius_x": 80.0, "radius_y": 120.0}
    region |= {"opacity": 0.3, "color": "#ffd400"}
    return json.dumps({"project_id": PROJECT, "highlight_regions": [region] * 12, "effect_type": "brightness_boost"})


START = {
    "method": "POST",
    "paths": ["/api/export/overlay/start"],
    "headers": [*USER, "Content-Type: application/json"],
    "body": start_body(),
}


def working_video(proxy: Proxy) -> None:
    """The row that the gateway's look-up finds, in legacy's own form."""
    folder = proxy.folder / "user_data/a"
    folder.mkdir(parents=True)
    with sqlite3.connect(folder / "database.sqlite") as database:
        database.execute("CREATE TABLE working_videos (id INTEGER PRIMARY KEY, project_id, filename TEXT, version INTEGER)")
        database.execute("INSERT INTO working_videos (project_id, filename, version) VALUES (?, 'video.mp4', 1)", (PROJECT,))
    database.close()


def get_1kib(bench: Bench) -> None:
    result = bench.result("S1", "GET 1 KiB, 64 connections", CPU)
    with bench.fleet(result, bench.wanted()) as fleet:
        bench.compare(result, fleet, {**KIB, "connections": 64})


def post_16kib(bench: Bench) -> None:
    result = bench.result("S2", "POST 16 KiB, echoed, 64 connections", CPU)
    spec = {"method": "POST", "paths": ["/echo"], "body_bytes": 16384, "expect": {"pattern": 16384}, "connections": 64}
    with bench.fleet(result, bench.wanted()) as fleet:
        bench.compare(result, fleet, spec)


def big_bodies(bench: Bench) -> None:
    down = bench.result("S3 down", "256 MiB down, 4 at once", "CPU s/GB")
    up = bench.result("S3 up", "256 MiB up, 4 at once", "CPU s/GB")
    got = {"paths": [f"/bytes/{BIG}"], "expect": {"pattern": BIG}}
    gave = {"method": "POST", "paths": ["/sink"], "body_bytes": BIG, "expect": {"contains": f'"size":{BIG},"right":true'}}
    with bench.fleet(down, bench.wanted(same=False)) as fleet:
        down.order(fleet)
        up.order(fleet)
        for proxy in bench.rounds(fleet, 3):
            for result, spec in ((down, got), (up, gave)):
                row = result.row(proxy.name)
                measure.forget_peak(proxy.pid)
                once = {"connections": 4, "requests": 4, "cold": True, "seconds": 60}
                seen, used = bench.sample(row, proxy, {**spec, **once})
                if seen.requests == 4:
                    row.values.append(used / (4 * BIG / 1e9))
                    row.add("peak RSS, MiB", measure.memory(proxy.pid, "VmHWM") / 2**20)
                bench.show(result, row, f"{seen.seconds:.2f} s")


def idle_websockets(bench: Bench) -> None:
    count = min(bench.options.websockets, (bench.options.descriptors - 500) // 2)
    result = bench.result("S4", f"{count} idle WebSockets, handshakes 100 at once", "KiB of memory each")
    spec = {"websocket": True, "paths": ["/ws/export/1"], "headers": USER, "expect": {"contains": ""}, "connections": count}
    spec |= {"at_once": 100, "seconds": 3}
    for wanted in bench.wanted(same=False):
        with bench.fleet(result, [wanted]) as fleet:
            for proxy in fleet:
                row = result.row(proxy.name)
                # What a process takes once (code, tables) is not the price of a WebSocket.
                with Load(bench.load_tool, bench.load_core, {**spec, "address": proxy.address, "connections": 200}) as load:
                    row.note(load.go())
                time.sleep(3)
                before = measure.memory(proxy.pid)
                with Load(bench.load_tool, bench.load_core, {"address": proxy.address, **spec}) as load:
                    seen = load.go()
                    row.values.append((measure.memory(proxy.pid) - before) / count / 1024)
                row.note(seen)
                time.sleep(4)  # Memory goes back by and by.
                row.add("KiB each, 4 s after closing", (measure.memory(proxy.pid) - before) / count / 1024)
                bench.show(result, row, f"{row.extra['KiB each, 4 s after closing'][-1]:.2f} after closing")


def starts(bench: Bench) -> None:
    result = bench.result("S5", "the start of an export (1.6 KB of JSON), 64 connections", "µs of CPU per start")
    result.notes.append(
        "The gateway translates, looks the video up in SQLite, records intent and owner durably, and completes the answer. "
        '"nginx, njs" translates both ways, looks nothing up and records nothing. All others pass the start on as it is.'
    )

    def spec(proxy: Proxy) -> dict[str, Any]:
        translates = proxy.product == GATEWAY or proxy.form == NJS
        return {**START, "connections": 64, "expect": {"contains": '"websocket_url":"ws' if translates else '"job_id":"'}}

    with bench.fleet(result, bench.wanted(njs=True)) as fleet:
        for proxy in fleet:
            if proxy.product == GATEWAY:
                working_video(proxy)
        bench.compare(result, fleet, spec, "starts/s")


def start_one(proxy: Proxy) -> str:
    request = urllib.request.Request(
        f"http://{proxy.address}/api/export/overlay/start",
        start_body().encode(),
        {"Content-Type": "application/json", "X-User-Id": "a"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)["job_id"]


def polls(bench: Bench) -> None:
    result = bench.result("S6", "the status poll of a known job, 64 connections", "µs of CPU per poll")
    with bench.fleet(result, bench.wanted()) as fleet:
        gateway = next((proxy for proxy in fleet if proxy.product == GATEWAY), None)
        jobs = ["11111111-0000-4000-8000-000000000000"]
        if gateway:
            working_video(gateway)
            jobs = [start_one(gateway) for _ in range(64)]
        paths = [f"/api/export/status/{job}" for job in jobs]
        spec = {"paths": paths, "headers": USER, "connections": 64, "expect": {"contains": '"progress":50'}}
        bench.compare(result, fleet, spec, "polls/s")


def tls(bench: Bench) -> None:
    get = bench.result("S8", "GET 1 KiB over TLS 1.3, 64 connections", CPU)
    hands = bench.result("S8 handshakes", "TLS 1.3 handshakes without resumption, a GET on each", "µs of CPU per handshake")
    names = setup.certificate(bench.folder)
    spec = {**KIB, "connections": 64, "tls": names["AUTHORITY"]}
    with bench.fleet(get, bench.wanted(bare=False), tls=True, **names) as fleet:
        bench.compare(get, fleet, spec, most=3)
        bench.compare(hands, fleet, {**spec, "close": True}, "handshakes/s", most=3)


def connections(bench: Bench) -> None:
    most = (bench.options.descriptors - 500) // 2
    results = {
        count: bench.result(f"S9 at {count}", f"GET 1 KiB on {count} connections", CPU)
        for count in dict.fromkeys(min(count, most) for count in (1, 64, 1000, 8000))
    }
    for count, result in results.items():
        with bench.fleet(result, bench.wanted(bare=False)) as fleet:
            bench.compare(result, fleet, {**KIB, "connections": count, "at_once": 200}, most=3)


def known_jobs(bench: Bench) -> None:
    for count in (0, 10_000, 1_000_000):
        result = bench.result(f"S10 with {count}", f"status polls with {count} more jobs known", "µs of CPU per poll")
        with bench.fleet(result, [(GATEWAY, "")]) as fleet:
            for proxy in fleet:
                proxy.end()
                fill(proxy.folder / "jobs.db", count)
                peers.STARTS[GATEWAY](proxy)
                proxy.wait_ready()
                working_video(proxy)
                asked = [job_id(number) for number in range(0, count, max(1, count // 10_000))]
                asked = asked or [start_one(proxy)]
                paths = [f"/api/export/status/{job}" for job in asked]
                spec = {"paths": paths, "headers": USER, "connections": 64, "expect": {"contains": '"progress":50'}}
                spec["cold"] = True
                bench.compare(result, [proxy], spec, "polls/s", most=3)
                result.row(proxy.name).add("RSS, MiB", measure.memory(proxy.pid) / 2**20)


def job_id(number: int) -> str:
    return f"{number * 2654435761 % 2**32:08x}-0000-4000-8000-{number:012x}"


def fill(store: Path, count: int) -> None:
    """Adds jobs that ended on workers in the last days, as the gateway itself keeps them."""
    now = int(time.time() * 1000)
    with sqlite3.connect(store) as database:
        rows = ((job_id(number), now - 3_600_000 - number * 100) for number in range(count))
        database.executemany(
            "INSERT INTO jobs (id, backend, export, user, started_ms, state)"
            " VALUES (?, 'workers', 'overlay', 'a', ?, 'complete')",
            rows,
        )
    database.close()


def latency(bench: Bench) -> None:
    """At 30 % of what the slowest can do; its rate is S1's, or measured here."""
    s1 = next((result for result in bench.results if result.key == "S1"), None)
    result = bench.result("p99", "latency of GET 1 KiB at a fixed rate, 64 connections", "ms, 99th percentile")
    with bench.fleet(result, bench.wanted()) as fleet:
        if s1 is None:
            s1 = Result("S1", "", CPU)
            bench.compare(s1, fleet, {**KIB, "connections": 64}, most=1)
        rates = [statistics.median(row.extra["requests/s"]) for row in s1.rows if row.extra.get("requests/s")]
        rate = round(0.3 * min(rates))
        result.notes.append(f"{rate} requests/s: 30 % of what the slowest did. A request's time runs from when it was due.")
        result.order(fleet)
        for proxy in bench.rounds(fleet):
            row = result.row(proxy.name)
            seen, _ = bench.sample(row, proxy, {**KIB, "connections": 64, "rate": rate})
            row.values.append(seen.milliseconds["p99"] or float("inf"))
            row.add("p50, ms", seen.milliseconds["p50"])
            row.add("p99.9, ms", seen.milliseconds["p999"])
            bench.show(result, row, f"p50 {seen.milliseconds['p50']:.3f} ms")
