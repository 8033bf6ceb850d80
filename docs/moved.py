"Old addresses of pages: a page there leads to where the contents are now"

import html
import tomllib
from pathlib import Path

import links

TABLE = Path(__file__).parent / "moved.toml"
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Moved: {title}</title>
<meta http-equiv="refresh" content="0; url={way}"><link rel="canonical" href="{way}">
<meta name="robots" content="noindex">
<script>location.replace("{way}" + location.hash)</script></head>
<body><p>This page has moved to <a href="{way}">{title}</a>.</p></body></html>
"""


def table() -> dict[str, str]:  # page without suffix -> page without suffix
    "Every old address with its new one"
    known = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    found = {f"course/{old}": new for old, new in known["course"].items()}
    found |= {f"exercises/{old}": new for old, new in known["exercises"].items()}
    for old, new in known["modules"].items():
        for folder in ("reference", "source"):
            found[f"{folder}/{old}"] = new if "/" in new else f"{folder}/{new}"
    return found


def publish(
    out: Path,  # the finished site
    draft: bool = False,  # leave out what leads nowhere
) -> None:
    "Write a page at every old address, for slides too where there are some"
    for old, new in table().items():
        _write(out, old, new, draft)
        deck, old_deck = (page.replace("course/", "slides/") for page in (new, old))
        if new.startswith("course/") and (out / f"{deck}.html").exists():
            _write(out, old_deck, deck, draft)


def _write(out: Path, old: str, new: str, draft: bool) -> None:
    if not (out / f"{new}.html").exists():
        if draft:
            return
        raise SystemExit(f"docs/moved.toml: {old} leads to {new}: there is no such page")
    if (out / f"{old}.html").exists():
        raise SystemExit(f"docs/moved.toml: {old} is still a page: leave it out")
    way = links.relative(old, f"{new}.html")
    text = PAGE.format(way=html.escape(way), title=html.escape(new))
    (out / f"{old}.html").write_text(text, encoding="utf-8")
