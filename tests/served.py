"""A web server on the loopback address, with the faults of real ones."""

import contextlib
import hashlib
import http.server
import re
import threading
from collections.abc import Iterator


class Site:
    """Serves `content` at every path; `faults` are taken one a request, none means good service.

    Faults: an HTTP status; cut (half of what is due), stall (the same, then silence), drop (no
    answer), whole (no ranges), short (100 bytes of a range), early (a range that begins 10 bytes
    before), glue (a range of a file that was changed).
    """

    def __init__(self) -> None:
        self.content, self.headers = b"", {}
        self.faults: list[str | int] = []
        self.requests: list[dict[str, str]] = []  # the headers of each
        self.closed = threading.Event()
        self.url = ""

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.content).hexdigest()}"'

    def starts(self) -> list[int]:
        """The first byte that each request asked for."""
        return [int(re.sub(r"\D", "", headers.get("Range", "0"))) for headers in self.requests]


@contextlib.contextmanager
def serve() -> Iterator[Site]:
    site = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_) -> None:
            pass

        def do_GET(self) -> None:
            site.requests.append(dict(self.headers))
            fault = site.faults.pop(0) if site.faults else None
            if isinstance(fault, int):
                return self.send_error(fault)
            if fault == "drop":
                return None
            start = site.starts()[-1]
            same = self.headers.get("If-Range") in (
                None,
                site.etag,
                site.headers.get("Last-Modified"),
            )
            if fault == "whole" or not (same or fault == "glue"):
                start = 0
            if fault == "early" and start:
                start -= 10
            size = len(site.content)
            if start and start >= size:
                return self.send_error(416)
            end = min(size, start + 100) if fault == "short" else size
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
            headers = {"ETag": site.etag, "Content-Length": str(end - start), **site.headers}
            for name, value in headers.items():
                if value is not None:
                    self.send_header(name, value)
            self.end_headers()
            due = site.content[start:end]
            self.wfile.write(due[: len(due) // 2] if fault in ("cut", "stall") else due)
            if fault == "stall":
                self.wfile.flush()
                site.closed.wait(60)
            return None

    class Server(http.server.ThreadingHTTPServer):
        block_on_close = False

        def handle_error(self, *_) -> None:
            """A client that was killed or has gone away."""

    with Server(("127.0.0.1", 0), Handler) as server:
        site.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield site
        finally:
            site.closed.set()
            server.shutdown()
            thread.join()
