"A notebook's figures as files of the site: sharp, small, and with the room that they take"

import base64
import hashlib
import html
import io
import re

from PIL import Image

FOLDER = "_static/figures"
SHARP = {"image/svg+xml": "svg", "image/webp": "webp"}  # what plots.show keeps beside the PNG, best first


def size(head: bytes) -> tuple[int, int] | None:
    "Width and height, in pixels of a page, of a PNG, or of an SVG that says them"
    if head.startswith(b"\x89PNG"):
        return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])
    numbers = [re.search(rb'\b%s="([\d.]+)(pt|px)?"' % name, head[:400]) for name in (b"width", b"height")]
    if not all(numbers):
        return None
    return tuple(round(float(one[1]) * (4 / 3 if one[2] == b"pt" else 1)) for one in numbers)


def picture(
    output: dict,  # of a notebook's cell
) -> tuple[str, bytes, tuple[int, int]] | None:  # suffix, content, and the size it is shown at
    "The best that an output has of its figure; a PNG becomes a WebP without loss"
    data = {kind: "".join(text) for kind, text in output.get("data", {}).items() if kind.startswith("image/")}
    if not data:
        return None
    png = base64.b64decode(data.get("image/png", ""))
    kind = next((kind for kind in SHARP if kind in data), "image/png")
    content = packed(data[kind].encode() if kind == "image/svg+xml" else base64.b64decode(data[kind]))
    return SHARP.get(kind, "webp"), content, size(png or content)


def packed(content: bytes) -> bytes:
    "A picture as the site keeps it: a PNG as a WebP without loss, of an SVG what is seen; others as they are"
    if content.startswith(b"\x89PNG"):
        file = io.BytesIO()
        Image.open(io.BytesIO(content)).convert("RGB").save(file, "WEBP", lossless=True)
        return file.getvalue()
    if content.startswith(b"RIFF"):
        return content
    content = re.sub(rb"<metadata>.*?</metadata>|(?<=>)\s+(?=<)", b"", content, flags=re.DOTALL)
    return re.sub(rb"(font-family: 'DejaVu Sans'), [^;\"]*", rb"\1, Verdana, sans-serif", content)


def name(content: bytes, suffix: str) -> str:
    "The file of a picture in FOLDER: pages and slides that show the same one share it"
    return f"{hashlib.sha256(content).hexdigest()[:16]}.{suffix}"


def shown(
    output: dict,  # of a notebook's cell
    folder: str,  # FOLDER as the page sees it
    keep,  # called with name and content of a file of that folder
) -> dict:  # the same, where it is no figure
    "The output with its figure as HTML, which has its description, width and height"
    if not (found := picture(output)):
        return output
    suffix, content, room = found
    alt = output.get("metadata", {}).get("image/png", {}).get("alt", "")
    file = name(content, suffix)
    keep(file, content)
    sides = f' width="{room[0]}" height="{room[1]}"' if room else ""
    tag = f'<img src="{folder}/{file}" alt="{html.escape(alt)}"{sides}>'
    return {"output_type": "display_data", "metadata": {}, "data": {"text/html": tag}}
