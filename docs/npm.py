"JavaScript that the pages load, fetched with npm as docs/package-lock.json says and kept in build/docs/npm"

import gzip
import hashlib
import shutil
import subprocess
from pathlib import Path

DOCS = Path(__file__).parent
NPM = DOCS.parent / "build" / "docs" / "npm"
RUNTIME = "ort-wasm-simd-threaded.wasm"
MATHJAX_FONTS = "output/chtml/fonts/woff-v2"


def fetch() -> Path:  # folder `node_modules`
    "Every package of docs/package.json at the locked version, checked by npm against the locked hashes; once"
    files = [DOCS / "package.json", DOCS / "package-lock.json"]
    wanted = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    record, modules = NPM / "fetched", NPM / "node_modules"
    if record.exists() and record.read_text() == wanted:
        return modules
    program = shutil.which("npm")
    if not program:
        raise SystemExit(
            "npm: not found: the pages need a formula typesetter and an ONNX runtime; install Node.js "
            "18 or newer (Debian, Ubuntu: apt install npm), or take https://nodejs.org"
        )
    NPM.mkdir(parents=True, exist_ok=True)
    (NPM / f"{RUNTIME}.gz").unlink(missing_ok=True)
    for path in files:
        shutil.copy(path, NPM)
    command = [program, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(command, cwd=NPM, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(
            f"npm ci: failed in {NPM}: is there a network, or a registry that npm knows?\n{done.stderr}"
        )
    record.write_text(wanted)
    return modules


def copy_assets(
    static: Path,  # folder that becomes `_static` of the site
) -> None:
    "The few files that pages need, out of some hundred MB"
    modules = fetch()
    es5, target = modules / "mathjax" / "es5", static / "mathjax"
    (target / MATHJAX_FONTS).mkdir(parents=True, exist_ok=True)
    _copy(es5 / "tex-chtml.js", target)
    for font in (es5 / MATHJAX_FONTS).iterdir():
        _copy(font, target / MATHJAX_FONTS)
    ort = static / "ort"
    ort.mkdir(exist_ok=True)
    _copy(modules / "onnxruntime-web" / "dist" / "ort.wasm.bundle.min.mjs", ort)
    _copy(packed_runtime(), ort)


def packed_runtime() -> Path:
    "ONNX Runtime's WebAssembly, a quarter of its size: not every server compresses what it sends"
    packed = NPM / f"{RUNTIME}.gz"
    if not packed.exists():
        packed.write_bytes(gzip.compress((fetch() / "onnxruntime-web" / "dist" / RUNTIME).read_bytes(), 9,
                                         mtime=0))
    return packed


def _copy(source: Path, folder: Path) -> None:
    "Copied only when it's new, so that what is built from it stays as it is"
    target = folder / source.name
    if not target.exists() or target.stat().st_size != source.stat().st_size:
        shutil.copy(source, folder)
