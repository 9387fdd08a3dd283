"""S7: an edit every half second under 2,000 requests a second; what fails, and how soon the new answer is there."""

import time

from bench import GATEWAY, Bench
from load import Load
from peers import RELOADS, SAME, Proxy

EVERY = 0.5
RATE = 2000
EDITS = 16


def reloads(bench: Bench) -> None:
    result = bench.result("S7", f"an edit every {EVERY} s under {RATE} requests/s", "ms to the first new answer")
    result.notes.append(
        "An edit leads to another upstream, by each product's own way: nginx SIGHUP, HAProxy SIGUSR2, Envoy a watched file, "
        "Caddy its admin API, the gateway by watching. Requests come every 0.5 ms, which is the resolution. "
        "A request that found its kept-alive connection closed is sent once more, as browsers do, and is no failure."
    )
    ports = {"a": bench.serve("a"), "b": bench.serve("b")}
    for product in [*(name for name in bench.products if name in RELOADS), GATEWAY]:
        for rename in (True, False) if product == GATEWAY else (True,):
            form = SAME if product != GATEWAY else ""
            with bench.fleet(result, [(product, form)], UPSTREAM=ports["a"]) as fleet:
                for proxy in fleet:
                    edit(bench, result, proxy, ports, rename)


def edit(bench: Bench, result, proxy: Proxy, ports: dict[str, int], rename: bool) -> None:
    row = result.row(proxy.name + ("" if proxy.product != GATEWAY else ", renamed" if rename else ", edited in place"))
    spec = {"address": proxy.address, "paths": ["/kib"], "expect": {"letters": ["ab", 1024]}, "connections": 32}
    spec |= {"rate": RATE, "seconds": EVERY * (EDITS + 1)}
    edits = []
    with Load(bench.load_tool, bench.load_core, spec) as load:
        load.start()
        began = time.time()
        for number in range(EDITS):
            time.sleep(max(0.0, began + EVERY * (number + 0.5) - time.time()))
            letter = "ba"[number % 2]
            edits.append((time.time(), letter))
            proxy.reload(ports[letter], rename)
        seen = load.seen()
    row.note(seen)
    late = 0
    for (at, letter), (until, _) in zip(edits, [*edits[1:], (float("inf"), "")], strict=True):
        first = next((when for when, what in seen.changes if what == letter and at <= when < until), None)
        if first is None:
            late += 1
        else:
            row.values.append((first - at) * 1e3)
    row.add("not within 0.5 s", late)
    row.add("connections closed", seen.reconnects)
    row.add("p99, ms", seen.milliseconds["p99"])
    bench.show(result, row, f"p99 {seen.milliseconds['p99']:.2f} ms, {late} of {EDITS} not within {EVERY} s")
