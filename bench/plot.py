"""Results as one SVG: a panel per scenario, a bar per proxy, the rounds' span as a line. Readable on white and on black."""

from html import escape

from bench import GATEWAY, Result
from table import number

WIDTH, LABEL, BAR, GAP, HEAD = 720, 170, 14, 5, 34


def panel(result: Result, top: int) -> tuple[str, int]:
    rows = sorted((row for row in result.rows if row.values), key=lambda row: row.median)
    most = max(max(row.values) for row in rows)
    room = WIDTH - LABEL - 80
    parts = [f'<text x="0" y="{top + 16}" class="t">{escape(f"{result.key}: {result.title}")} ({escape(result.unit)})</text>']
    y = top + HEAD - 8
    for row in rows:
        width, low, high = (room * value / most for value in (row.median, min(row.values), max(row.values)))
        kind = "g" if row.proxy.startswith(GATEWAY) else "p"
        middle = y + BAR / 2
        parts.append(f'<text x="{LABEL - 8}" y="{y + 11}" class="l">{escape(row.proxy)}</text>')
        parts.append(f'<rect x="{LABEL}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2" class="{kind}"/>')
        parts.append(f'<path d="M{LABEL + low:.1f} {middle}H{LABEL + high:.1f}" class="s"/>')
        failed = f", {row.failed} failed" if row.failed else ""
        parts.append(f'<text x="{LABEL + max(width, high) + 6:.1f}" y="{y + 11}" class="v">{number(row.median)}{failed}</text>')
        y += BAR + GAP
    return "".join(parts), y + 12


def plot(results: list[Result]) -> str:
    parts, top = [], 0
    for result in results:
        if any(row.values for row in result.rows):
            part, top = panel(result, top)
            parts.append(part)
    style = (
        "text{font:12px system-ui,sans-serif;fill:#777}.t{font-weight:600;fill:#888}.l{text-anchor:end}"
        ".p{fill:#9aa7b5}.g{fill:#d98a29}.s{stroke:#555;stroke-width:1.5}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" role="img">'
        f"<title>export-gateway beside its peers; shorter is better</title><style>{style}</style>{''.join(parts)}</svg>\n"
    )
