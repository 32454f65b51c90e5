"""A stand-in for a model hub on this machine: the three requests that fetching needs, and faults on demand."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """One repository; files ending in .bin or .safetensors are large ones, with a SHA-256."""

    repository: str
    files: dict[str, bytes]
    endpoint: str = ""
    sent: dict[str, bytes] = field(default_factory=dict)
    """Files that arrive with other bytes than the hub names."""
    broken: set[str] = field(default_factory=set)
    """Files that the hub fails to send."""
    fetched: list[str] = field(default_factory=list)
    """Path of every file that was asked for."""
    watch: Callable[[str], None] = lambda path: None
    """Is called with the path before a file is sent."""

    def info(self) -> dict[str, Any]:
        siblings = []
        for path, content in self.files.items():
            blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            entry: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": blob}
            if _large(path):
                entry["lfs"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "pointerSize": 134}
            siblings.append(entry)
        return {"id": self.repository, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False, "downloads": 0, "likes": 0}


def _large(path: str) -> bool:
    return path.endswith((".bin", ".safetensors"))


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Answers at `hub.endpoint` until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            if re.fullmatch(rf"/api/models/{hub.repository}(/revision/[^/]+)?", path):
                self._send(200, json.dumps(hub.info()).encode(), {"Content-Type": "application/json"}, with_body=True)
                return
            match = re.fullmatch(rf"/{hub.repository}/resolve/{COMMIT}/(.+)", path)
            if match is None or match[1] not in hub.files:
                code = "RepoNotFound" if match is None else "EntryNotFound"
                self._send(404, b"", {"X-Error-Code": code, "X-Error-Message": "not here"}, with_body=with_body)
                return
            self._file(match[1], with_body=with_body)

        def _file(self, path: str, *, with_body: bool) -> None:
            content = hub.sent.get(path, hub.files[path])
            etag = hashlib.sha256(hub.files[path]).hexdigest() if _large(path) else hashlib.sha1(hub.files[path]).hexdigest()
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}
            if not with_body:
                self._send(200, content, headers, with_body=False)
                return
            hub.fetched.append(path)
            hub.watch(path)
            if path in hub.broken:
                self._send(500, b"", {}, with_body=True)
                return
            self._send(200, content, headers, with_body=True)

        def _send(self, status: int, body: bytes, headers: dict[str, str], *, with_body: bool) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
