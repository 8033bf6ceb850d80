"Shows the built site on this machine: python docs/serve.py [--port 8000]"

import argparse
import functools
import http.server
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


class Handler(http.server.SimpleHTTPRequestHandler):
    "Static files with the types that modules and WebAssembly need, never an old copy"

    extensions_map = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".onnx": "application/octet-stream",
        ".webp": "image/webp",
        ".woff2": "font/woff2",
    }
    protocol_version = "HTTP/1.1"

    def end_headers(self):
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, *args):
        "Nothing: a page has dozens of files"


class Server(http.server.ThreadingHTTPServer):
    "A browser that leaves a page before all of it has come is no error"

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def server(folder: Path, port: int = 0) -> Server:
    "A server for a folder, to be started with serve_forever; port 0 takes a free one"
    return Server(("127.0.0.1", port), functools.partial(Handler, directory=str(folder)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "_docs")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    if not (options.folder / "index.html").exists():
        raise SystemExit(f"{options.folder}: no index.html: build the site first, with make docs")
    with server(options.folder, options.port) as http_server:
        print(f"http://127.0.0.1:{http_server.server_port} (Ctrl-C ends it)")
        try:
            http_server.serve_forever()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    main()
