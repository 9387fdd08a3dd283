"""Results as Markdown."""

import statistics

from bench import GATEWAY, REFERENCE, Result


def number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 10 else f"{value:.1f}"


def spread(values: list[float]) -> str:
    return f"{number(min(values))}–{number(max(values))}"


def table(result: Result) -> str:
    """One scenario: medians, spans, ratios, failures, and what others took of the core."""
    extras = list(dict.fromkeys(name for row in result.rows for name in row.extra))
    is_beside = any(row.proxy == REFERENCE and row.values for row in result.rows)
    heads = ["proxy", result.unit, "span", *(["× nginx bare"] if is_beside else []), *extras, "failed", "foreign CPU"]
    lines = [f"**{result.key}: {result.title}**", "", f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for row in result.rows:
        if not row.values:
            cells = [row.proxy, "–", "–", *(["–"] if is_beside else [])]
        else:
            cells = [row.proxy, number(row.median), spread(row.values)]
            if is_beside:
                cells.append(f"{result.ratio(row.proxy, REFERENCE):.2f}")
        for name in extras:
            values = row.extra.get(name)
            cells.append(number(statistics.median(values)) if values else "–")
        why = ", ".join(f"{reason} ×{times}" for reason, times in row.why.items())
        cells.append(f"{row.failed}" + (f" ({why})" if why else ""))
        cells.append(f"{statistics.median(row.foreign):.0%}" if row.foreign else "–")
        if row.proxy.startswith(GATEWAY):
            cells = [f"**{cell}**" for cell in cells]
        lines.append(f"| {' | '.join(cells)} |")
    best = result.best_peer()
    if best:
        for row in result.rows:
            if row.proxy.startswith(GATEWAY) and row.values:
                ratio = result.ratio(row.proxy, best)
                lines += ["", f"{row.proxy} : best peer ({best}) = {ratio:.2f}"]
    lines += [line for note in result.notes for line in ("", note)]
    return "\n".join(lines) + "\n"


def report(results: list[Result], machine: str, settings: str) -> str:
    head = f"Made by `make bench`: {machine}. {settings}\n\n"
    return head + "\n".join(table(result) for result in results if result.rows)
