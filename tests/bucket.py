"""A bucket of Google's on this machine, for TensorFlow, TensorStore and Google's own client.

It knows as much of the JSON API as they ask for. As TensorFlow has no setting for another address,
it is also the proxy of https that leads to itself, with a certificate of its own.
"""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_OBJECT = re.compile(r"(?:/download)?/storage/v1/b/([^/]+)/o/([^/]+)")
_COPY = re.compile(r"/storage/v1/b/([^/]+)/o/([^/]+)/rewriteTo/b/([^/]+)/o/([^/]+)")
_LIST = re.compile(r"/storage/v1/b/([^/]+)/o")
_UPLOAD = re.compile(r"/upload/storage/v1/b/([^/]+)/o")


class Bucket:
    """What it holds: {"bucket/name": (content, generation)}; all buckets exist.

    Attributes:
      refused: names that begin so are answered with 403.
    """

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.refused: str | None = None
        self.sessions: dict[str, str] = {}
        self.generation = 0
        self.lock = threading.Lock()

    def put(self, key: str, content: bytes) -> None:
        with self.lock:
            self.generation += 1
            self.objects[key] = content, self.generation

    def names(self, start: str = "") -> list[str]:
        with self.lock:
            return sorted(key for key in self.objects if key.startswith(start))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    bucket: Bucket
    context: ssl.SSLContext

    def log_message(self, *_: Any) -> None:
        pass

    def do_CONNECT(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.connection = self.context.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb", -1)
        self.wfile = self.connection.makefile("wb", 0)
        self.close_connection = False

    def _begin(self) -> tuple[str, dict[str, str], bytes]:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        return parts.path, query, self._body()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, content: Any, status: int = 200, **headers: str) -> None:
        self._answer(
            status, json.dumps(content).encode(), Content_Type="application/json", **headers
        )

    def _fail(self, status: int) -> None:
        self._json({"error": {"code": status, "message": f"status {status}"}}, status)

    def _refuses(self, key: str) -> bool:
        refused = self.bucket.refused
        if refused is not None and key.startswith(refused):
            self._fail(403)
            return True
        return False

    def _matches(self, key: str, query: dict[str, str]) -> bool:
        """Whether the object is of the generation that a writer expects; 0: is not there."""
        wanted = query.get("ifGenerationMatch")
        found = self.bucket.objects.get(key, (b"", 0))[1]
        return wanted is None or int(wanted) == found

    def _facts(self, key: str) -> dict[str, Any]:
        content, generation = self.bucket.objects[key]
        bucket, _, name = key.partition("/")
        return {
            "name": name,
            "bucket": bucket,
            "size": str(len(content)),
            "generation": str(generation),
            "metageneration": "1",
            "updated": "2020-01-01T00:00:00.000Z",
            "timeCreated": "2020-01-01T00:00:00.000Z",
        }

    def do_GET(self) -> None:
        path, query, _ = self._begin()
        if match := _OBJECT.fullmatch(path):
            key = f"{match[1]}/{unquote(match[2])}"
            self._get(key, query, query.get("alt") == "media")
        elif match := _LIST.fullmatch(path):
            self._list(match[1], query)
        elif path.endswith("/storageLayout"):
            self._json({"hierarchicalNamespace": {"enabled": False}})
        elif path.startswith("/storage/v1/b/"):
            self._json({"name": path.rpartition("/")[2], "location": "US"})
        else:
            self._get(unquote(path).removeprefix("/"), query, True)

    def _get(self, key: str, query: dict[str, str], media: bool) -> None:
        if self._refuses(key):
            return
        if key not in self.bucket.objects:
            self._fail(404)
        elif not media:
            self._json(self._facts(key))
        else:
            self._content(*self.bucket.objects[key], query)

    def _content(self, content: bytes, generation: int, query: dict[str, str]) -> None:
        headers = {"x_goog_generation": str(generation), "Date": self.date_time_string()}
        if query.get("ifGenerationNotMatch") == str(generation):
            self._answer(304, **headers)
            return
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span is None:
            self._answer(200, content, **headers)
            return
        first, last = int(span[1]), int(span[2] or len(content) - 1)
        if first >= len(content):
            self._fail(416)
            return
        part = content[first : last + 1]
        where = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
        self._answer(206, part, Content_Range=where, **headers)

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        if self._refuses(f"{bucket}/{prefix}"):
            return
        items, folders = [], set()
        for key in self.bucket.names(f"{bucket}/{prefix}"):
            name = key.partition("/")[2]
            if not query.get("startOffset", "") <= name:
                continue
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
            elif not query.get("endOffset") or name < query["endOffset"]:
                items.append(self._facts(key))
        number = int(query.get("maxResults", 1000))
        self._json({"items": items[:number], "prefixes": sorted(folders)[:number]})

    def do_DELETE(self) -> None:
        path, query, _ = self._begin()
        match = _OBJECT.fullmatch(path)
        key = f"{match[1]}/{unquote(match[2])}" if match else ""
        if self._refuses(key):
            return
        if key not in self.bucket.objects:
            self._fail(404)
        elif not self._matches(key, query):
            self._fail(412)
        else:
            del self.bucket.objects[key]
            self._answer(204)

    def do_POST(self) -> None:
        path, query, body = self._begin()
        if match := _COPY.fullmatch(path):
            source, target = (f"{match[i]}/{unquote(match[i + 1])}" for i in (1, 3))
            if source not in self.bucket.objects:
                self._fail(404)
                return
            self.bucket.put(target, self.bucket.objects[source][0])
            self._json({"done": True, "resource": self._facts(target)})
        elif match := _UPLOAD.fullmatch(path):
            self._upload(f"{match[1]}/{query['name']}", query, body)
        else:
            self._fail(501)

    def _upload(self, key: str, query: dict[str, str], body: bytes) -> None:
        if self._refuses(key):
            return
        if not self._matches(key, query):
            self._fail(412)
        elif query["uploadType"] == "media":
            self.bucket.put(key, body)
            self._json(self._facts(key))
        else:
            session = str(len(self.bucket.sessions))
            self.bucket.sessions[session] = key
            self._answer(200, Location=f"https://www.googleapis.com/session/{session}")

    def do_PUT(self) -> None:
        path, _, body = self._begin()
        key = self.bucket.sessions[path.rpartition("/")[2]]
        self.bucket.put(key, body)
        self._json(self._facts(key))


def _certificate(folder: Path) -> Path:
    """A key and its certificate, in one file."""
    made = folder / "bucket.pem"
    names = "subjectAltName=DNS:www.googleapis.com,DNS:storage.googleapis.com,IP:127.0.0.1"
    curve = "ec_paramgen_curve:prime256v1"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", curve, "-nodes"]
    command += ["-days", "2", "-subj", "/CN=bucket", "-addext", names]
    command += ["-keyout", "key", "-out", "cert"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    made.write_bytes((folder / "key").read_bytes() + (folder / "cert").read_bytes())
    return made


@contextmanager
def serve(folder: Path) -> Iterator[tuple[Bucket, dict[str, str]]]:
    """A bucket, and the environment in which a process takes it for Google's."""
    certificate = _certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    bucket = Bucket()
    handler = type("Handler", (_Handler,), {"bucket": bucket, "context": context})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    here = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield (
            bucket,
            {
                "https_proxy": here,
                "CURL_CA_BUNDLE": str(folder / "cert"),
                "TENSORSTORE_GCS_HTTP_URL": here,
                "STORAGE_EMULATOR_HOST": here,
                "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
                "GOOGLE_CLOUD_PROJECT": "none",
            },
        )
    finally:
        server.shutdown()
        server.server_close()
