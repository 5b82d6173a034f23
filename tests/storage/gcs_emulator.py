"""A Cloud Storage of this process: an HTTP server of as much of the JSON API as is used here.

gcsfs and TensorStore work with it, see `GcsEmulator.environment`. It is no proof that the real
service answers the same: its rules are those of the documentation,
https://cloud.google.com/storage/docs/json_api
"""

import json
import re
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from .gcs_faults import Faults
from .gcs_objects import Object, Objects, Refused
from .gcs_uploads import Uploads

_BUCKET, _OBJECT = r"/b/(?P<bucket>[^/]+)", r"/o/(?P<name>[^/]+)"
_TARGET = r"(?:/b/(?P<target_bucket>[^/]+))?/o/(?P<target>[^/]+)"
_ROUTES = (
    ("GET", rf"/storage/v1{_BUCKET}", "bucket"),
    ("POST", r"/storage/v1/b", "make_bucket"),
    ("DELETE", rf"/storage/v1{_BUCKET}", "remove_bucket"),
    ("GET", rf"/storage/v1{_BUCKET}/o", "list"),
    ("GET", rf"(?:/download)?/storage/v1{_BUCKET}{_OBJECT}", "get"),
    ("DELETE", rf"/storage/v1{_BUCKET}{_OBJECT}", "remove"),
    ("POST", rf"/storage/v1{_BUCKET}{_OBJECT}/(?P<verb>rewriteTo|copyTo|moveTo){_TARGET}", "copy"),
    ("POST", rf"/upload/storage/v1{_BUCKET}/o", "upload"),
    ("PUT", rf"/upload/storage/v1{_BUCKET}/o", "upload"),
    ("DELETE", rf"/upload/storage/v1{_BUCKET}/o", "give_up"),
)


class GcsEmulator:
    """The server, in threads of this process, on a port of its own. A context manager."""

    def __init__(self) -> None:
        self.objects, self.faults = Objects(), Faults()
        self.requests: list[str] = []
        """Method and path of every request so far."""
        self.uploads: dict[str, dict[str, Any]] = {}
        """The resumable uploads under way."""
        handler = type("Handler", (_Handler,), {"emulator": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    def __enter__(self) -> "GcsEmulator":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which gcsfs and TensorStore come here, and look for no account."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "nobody",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }


class _Handler(Uploads, BaseHTTPRequestHandler):
    emulator: GcsEmulator
    protocol_version = "HTTP/1.1"  # connections are kept
    wbufsize = 1 << 16
    disable_nagle_algorithm = True

    def handle_expect_100(self) -> bool:
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        with suppress(ConnectionError):  # a client that was killed
            super().handle()

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_DELETE = do_GET

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        emulator, address = self.emulator, urlsplit(self.path)
        emulator.requests.append(f"{self.command} {unquote(self.path)}")
        fault = emulator.faults.of(self.command, unquote(self.path))
        if isinstance(fault, int):
            self._answer_error(Refused(fault, "a fault of the emulator"))
            return
        if fault == "cut before":
            self._cut()
            return
        self._cuts = fault
        query = dict(parse_qsl(address.query, keep_blank_values=True))
        for method, pattern, verb in _ROUTES:
            found = re.fullmatch(pattern, address.path)
            if found and method == self.command:
                parts = {key: unquote(part) for key, part in found.groupdict().items() if part}
                try:
                    getattr(self, f"_{verb}")(parts, query, body)
                except Refused as refused:
                    self._answer_error(refused)
                return
        self._answer_error(Refused(501, f"not in the emulator: {self.command} {self.path}"))

    def _bucket(self, parts: dict[str, str], query: dict[str, str], body: bytes) -> None:
        self.emulator.objects.bucket(parts["bucket"])
        self._answer_json({"kind": "storage#bucket", "name": parts["bucket"]})

    def _make_bucket(self, parts: dict[str, str], query: dict[str, str], body: bytes) -> None:
        name = json.loads(body)["name"]
        self.emulator.objects.make_bucket(name)
        self._answer_json({"kind": "storage#bucket", "name": name})

    def _remove_bucket(self, parts: dict[str, str], query: dict[str, str], body: bytes) -> None:
        self.emulator.objects.remove_bucket(parts["bucket"])
        self._answer(204, b"")

    def _list(self, parts: dict[str, str], query: dict[str, str], body: bytes) -> None:
        self._answer_json(self.emulator.objects.list(parts["bucket"], query))

    def _get(self, parts: dict[str, str], query: dict[str, str], body: bytes) -> None:
        found = self.emulator.objects.get(parts["bucket"], parts["name"], query)
        if query.get("alt") == "media":
            self._answer_data(found)
        else:
            self._answer_json(found.resource(parts["bucket"]))

    def _answer_data(self, found: Object) -> None:
        resource = found.resource("")
        headers = {
            "Content-Type": found.content_type,
            "X-Goog-Generation": str(found.generation),
            "X-Goog-Metageneration": "1",
            "X-Goog-Hash": f"md5={resource['md5Hash']}",
            "ETag": resource["etag"],
        }
        size = len(found.data)
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            self._answer(200, found.data, headers)
            return
        if asked[1]:
            begin, end = int(asked[1]), min(int(asked[2] or size - 1), size - 1)
        else:
            begin, end = max(0, size - int(asked[2])), size - 1
        if begin >= size:
            raise Refused(416, "The requested range cannot be satisfied.")
        headers["Content-Range"] = f"bytes {begin}-{end}/{size}"
        self._answer(206, found.data[begin : end + 1], headers)

    def _remove(self, parts: dict[str, str], query: dict[str, str], body: bytes) -> None:
        self.emulator.objects.remove(parts["bucket"], parts["name"], query)
        self._answer(204, b"")

    def _copy(self, parts: dict[str, str], query: dict[str, str], body: bytes) -> None:
        objects, source = self.emulator.objects, (parts["bucket"], parts["name"])
        bucket = parts.get("target_bucket", parts["bucket"])
        made = objects.copy(source, (bucket, parts["target"]), query)
        if parts["verb"] == "moveTo":
            objects.remove(*source, {})
        resource = made.resource(bucket)
        if parts["verb"] == "rewriteTo":
            self._answer_json(
                {"kind": "storage#rewriteResponse", "done": True, "resource": resource}
            )
        else:
            self._answer_json(resource)

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer_json(self, content: dict[str, Any]) -> None:
        headers = {"Content-Type": "application/json; charset=UTF-8"}
        self._answer(200, json.dumps(content).encode(), headers)

    def _answer_error(self, refused: Refused) -> None:
        if refused.status == 304:
            self._answer(304, b"")
            return
        error = {"code": refused.status, "message": refused.message, "errors": []}
        headers = {"Content-Type": "application/json; charset=UTF-8"}
        self._cuts = None
        self._answer(refused.status, json.dumps({"error": error}).encode(), headers)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        if self._cuts == "cut after":
            self._cut()
            return
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self._cuts == "half" and body:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self._cut()
            return
        self.wfile.write(body)

    def _cut(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
