"Tables of results as charts: a dot a row, and a line from the lowest to the highest, in the colours of the page"

import csv
import html
import math
from pathlib import Path
from statistics import mean

LABEL, PLOT, ROW = 370, 450, 24  # pixels: of the names, at most; of what is beside them; of a row
LETTER = 6.4  # pixels, about


def rows(path: Path) -> list[dict[str, str]]:
    "A CSV file without its comments"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


def points(table: list[dict[str, str]]) -> tuple[str, list[tuple[str, float, float, float]]]:
    "What a chart of this table shows: words for the axis, and name, value, lowest and highest of each row"
    if not table:
        return "", []
    if {"way", "seed", "image_auroc"} <= table[0].keys():
        found: dict[str, dict[str, list[float]]] = {}
        for row in table:
            if row["image_auroc"]:
                found.setdefault(row["way"], {}).setdefault(row["seed"], []).append(float(row["image_auroc"]))
        each = {way: [mean(some) for some in seeds.values()] for way, seeds in found.items()}
        return ("image AUROC, mean of all products; the line: from the worst to the best seed",
                [(way.replace("_", " "), mean(some), min(some), max(some)) for way, some in each.items()])
    if {"work", "ratio", "lowest", "highest"} <= table[0].keys():
        some = [("; ".join(filter(None, [row["work"], row.get("peer") or row.get("baseline")])),
                 *(float(row[key]) for key in ("ratio", "lowest", "highest")))
                for row in table if row["ratio"] and row["lowest"] and row["highest"]]
        return "times as fast; the line: from the lowest to the highest of the repetitions", some
    return "", []


def chart(path: Path) -> str:  # SVG in one line, or "" where a table has nothing to draw
    "The chart of a table"
    words, found = points(rows(path))
    if not found:
        return ""
    ratio, most_letters = words.startswith("times"), int(LABEL / LETTER)
    label = min(LABEL, round(LETTER * max(len(name) for name, *_ in found)) + 4)
    width = label + PLOT
    low, high = min(one[2] for one in found), max(one[3] for one in found)
    low, high = (min(low, 1), max(high, 1)) if ratio else (low - .02, min(1.0, high + .02))
    scale = math.log10 if ratio else float
    span = (scale(high) - scale(low)) or 1

    def across(value: float) -> float:
        return label + 12 + (scale(value) - scale(low)) / span * (PLOT - 70)

    height = ROW * len(found) + 34
    ticks = [one for one in ((.1, .2, .5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if ratio
                             else [k / 20 for k in range(21)]) if low <= one <= high]
    parts = [
        f'<path d="M{across(one):.1f},4V{height - 30}" stroke="currentColor" stroke-opacity=".18"/>'
        f'<text x="{across(one):.1f}" y="{height - 16}" text-anchor="middle">{one:g}</text>'
        for one in ticks
    ]
    for k, (name, value, least, most) in enumerate(found):
        y = ROW * k + 16
        shown = f"{value:.3g}" if ratio else f"{value:.3f}"
        short = name if len(name) <= most_letters else name[:most_letters - 1].rstrip() + "…"
        parts.append(
            f'<text x="{label}" y="{y + 4}" text-anchor="end"><title>{html.escape(name)}</title>{html.escape(short)}</text>'
            f'<path d="M{across(least):.1f},{y}H{across(most):.1f}" stroke="currentColor" stroke-width="2" stroke-opacity=".55"/>'
            f'<circle cx="{across(value):.1f}" cy="{y}" r="5" class="dot"/>'
            f'<text x="{across(most) + 9:.1f}" y="{y + 4}">{shown}</text>'
        )
    said = "; ".join(f"{name} {value:.3g}, {least:.3g} to {most:.3g}" for name, value, least, most in found)
    return (
        f'<figure class="chart"><svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" style="min-width: {0.66 * width:.0f}px" role="img" '
        f'aria-label="{html.escape(words)}: {html.escape(said)}" font-size="11.5" fill="currentColor">{"".join(parts)}</svg>'
        f"<figcaption>{html.escape(words)}</figcaption></figure>"
    )
