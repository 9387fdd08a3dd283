"""The table of a run in Markdown, and whether all holds."""

import statistics
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from ledger import Book, Row, row_of

if TYPE_CHECKING:
    from run import Run

SHOWN = 20  # Problems that are printed one by one.


def print_table(run: "Run", book: Book, seconds: float) -> bool:
    options, ledger = run.options, run.ledger
    rows: dict[str, Row] = defaultdict(Row)
    for number in sorted(ledger.got):
        start, fired = run.starts.by_number[number], run.fired(number)
        row = rows[row_of(start, fired, ledger.got[number][0])]
        ledger.judge(start, book, fired, options.idempotent, row)
    for number in book.legacy.keys() | book.workers.keys():
        if number not in ledger.got:
            ledger.problems.append(f"a job of no start: {number}")

    store = "a Redis (appendfsync always)" if options.store == "redis" else "SQLite"
    keys = ", a Worker that honours keys" if options.idempotent else ""
    print(f"\n## {options.replicas} gateway(s) on {store}{keys}; seed {options.seed}\n")
    print("| fault | starts | jobs at legacy | jobs at workers | acknowledged | answers | twice | lost | cut, looks whole |")
    print("| --- | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: |")
    total = Row()
    for name in sorted(rows):
        row = rows[name]
        print(line(name, row))
        for part in ("starts", "legacy", "workers", "acknowledged", "twice", "lost", "cut", "other"):
            setattr(total, part, getattr(total, part) + getattr(row, part))
        total.answers += row.answers
    print(line("**all**", total))
    sum_up(run, total, seconds)
    return not ledger.problems and not total.twice and not total.lost and not total.cut


def line(name: str, row: Row) -> str:
    numbers = f"{row.starts} | {row.legacy} | {row.workers} | {row.acknowledged}"
    return f"| {name} | {numbers} | {shown(row.answers)} | {row.twice} | {row.lost} | {row.cut} |"


def shown(counts: Counter[str]) -> str:
    return ", ".join(f"{name} ×{count}" for name, count in sorted(counts.items()))


def sum_up(run: "Run", total: Row, seconds: float) -> None:
    ledger, weather = run.ledger, run.weather
    kills = sum(replica.kills for replica in run.replicas) - len(run.replicas)
    print(f"\n{run.faulted()} of {total.starts} starts met a fault, in {seconds:.0f} s.")
    print(f"{kills} × kill -9, with {run.cut_by_kills} starts under way; {run.file.edits} edits of the file.")
    print(f"Polls of acknowledged jobs by their users: {shown(ledger.polls)}. Downloads: {shown(ledger.downloads)}.")
    if weather.seconds:
        medians = {name: statistics.median(times) * 1_000 for name, times in weather.seconds.items()}
        print("Median of a start: " + ", ".join(f"{name} {ms:.2f} ms" for name, ms in sorted(medians.items())) + ".")
    for name, report in sorted(weather.stores.items()):
        print(f"\n{name}, {report.times} times. Clients got {shown(report.got)}. The log said:")
        for message, count in report.said.most_common():
            print(f"- {message} ×{count}")
    wrong = f"{total.twice} twice, {total.lost} lost, {total.cut} cut but whole to look at, {total.other} against the rules"
    print(f"\nOf {total.acknowledged} acknowledged: {wrong}.")
    for problem in ledger.problems[:SHOWN]:
        print(f"- WRONG: {problem}")
    if len(ledger.problems) > SHOWN:
        print(f"- … and {len(ledger.problems) - SHOWN} more")
