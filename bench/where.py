"""Where instructions go, by crate: read from callgrind's dump, which knows the file of every inlined line."""

import re
from collections import Counter
from pathlib import Path

# What a file's path says it belongs to; the first that fits.
OWNERS = (
    (re.compile(r"registry/src/[^/]+/(?:lib)?sqlite3-sys"), "SQLite"),
    (re.compile(r"sqlite3\.c"), "SQLite"),
    (re.compile(r"registry/src/[^/]+/(hyper|hyper-util|http|http-body|http-body-util|httparse)-\d"), "hyper, http, httparse"),
    (re.compile(r"registry/src/[^/]+/(tokio|tokio-\w+|mio|socket2)-\d"), "tokio, mio"),
    (re.compile(r"registry/src/[^/]+/([a-z0-9_-]+?)-\d"), "other crates"),
    (re.compile(r"/rustc/|library/(core|alloc|std)/|hashbrown"), "Rust's standard library"),
    (re.compile(r"(?:^|/)src/[\w/]+\.rs$"), "export-gateway"),
)


def owner(path: str) -> str:
    for pattern, name in OWNERS:
        if pattern.search(path):
            return name
    return "libc (allocator, memcpy, system calls)"


def instructions(dump: Path) -> Counter:
    """Instructions by owner; calls' inclusive costs are left out, each line counts where it stands."""
    names: dict[str, str] = {}
    counted: Counter = Counter()
    current, is_call = "", False
    for line in dump.read_text(errors="replace").splitlines():
        if found := re.match(r"(fl|fi|fe)=\((\d+)\)(?: (.*))?", line):
            _, number, name = found.groups()
            if name:
                names[number] = owner(name)
            current = names.get(number, "")
        elif found := re.match(r"(?:cfi|cfl)=\((\d+)\) (.*)", line):
            names[found[1]] = owner(found[2])
        elif line.startswith("calls="):
            is_call = True
        elif line[:1] in "+-*0123456789" and line:
            fields = line.split()
            if not is_call and len(fields) >= 2:
                counted[current] += int(fields[1])
            is_call = False
    return counted


def table(counted: Counter, requests: int) -> str:
    total = sum(counted.values())
    lines = ["| instructions of a request | | share |", "| --- | --- | --- |"]
    lines += [f"| {name} | {count / requests:,.0f} | {count / total:.0%} |" for name, count in counted.most_common()]
    return "\n".join(lines)
