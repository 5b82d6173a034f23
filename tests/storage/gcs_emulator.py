"""A Cloud Storage of this process: an HTTP server of as much of the JSON API as is used here.

gcsfs and TensorStore work with it, see `GcsEmulator.environment`. It is no proof that the real
service answers the same: its rules are those of the documentation,
https://cloud.google.com/storage/docs/json_api and
https://cloud.google.com/storage/docs/performing-resumable-uploads
"""

import json
import re
import socket
import threading
import uuid
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from .gcs_faults import Faults
from .gcs_objects import Object, Objects, Refused

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


class _Handler(BaseHTTPRequestHandler):
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

    def _upload(self, parts: dict[str, str], query: dict[str, str], body: bytes) -> None:
        bucket, kind = parts["bucket"], query.get("uploadType")
        content_type = self.headers.get("Content-Type", "application/octet-stream")
        if "upload_id" in query:
            self._continue(query["upload_id"], body)
        elif kind == "resumable":
            self._begin(bucket, query, json.loads(body or b"{}"))
        elif kind == "multipart":
            described, data, content_type = _multipart(content_type, body)
            name = described["name"]
            self._answer_json(self._put(bucket, name, data, query, content_type, described))
        else:
            self._answer_json(self._put(bucket, query["name"], body, query, content_type, {}))

    def _put(
        self,
        bucket: str,
        name: str,
        data: bytes,
        query: dict[str, str],
        content_type: str,
        described: dict[str, Any],
    ) -> dict[str, Any]:
        made = self.emulator.objects.put(
            bucket,
            name,
            data,
            query,
            content_type=content_type,
            metadata=described.get("metadata"),
        )
        return made.resource(bucket)

    def _begin(self, bucket: str, query: dict[str, str], described: dict[str, Any]) -> None:
        self.emulator.objects.bucket(bucket)
        key = uuid.uuid4().hex
        self.emulator.uploads[key] = {
            "bucket": bucket,
            "name": query.get("name") or described["name"],
            "query": query,
            "type": self.headers.get("X-Upload-Content-Type", "application/octet-stream"),
            "described": described,
            "data": b"",
        }
        location = f"{self.emulator.url}{self.path}&upload_id={key}"
        self._answer(200, b"", {"Location": location})

    def _continue(self, key: str, body: bytes) -> None:
        upload = self.emulator.uploads.get(key)
        if upload is None:
            raise Refused(404, "No such upload")
        if "made" in upload:  # the answer was lost, and the client asks again
            self._answer_json(upload["made"])
            return
        sent = re.fullmatch(
            r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", self.headers.get("Content-Range", "")
        )
        if sent is None:
            raise Refused(400, "invalid Content-Range")
        begin = int(sent[1] or len(upload["data"]))
        if begin > len(upload["data"]):
            raise Refused(503, "bytes are missing before these")
        upload["data"] = upload["data"][:begin] + body
        size = len(upload["data"])
        if sent[2] != str(size):
            self._answer(308, b"", {"Range": f"bytes=0-{size - 1}"} if size else {})
            return
        upload["made"] = self._put(
            upload["bucket"],
            upload["name"],
            upload["data"],
            upload["query"],
            upload["type"],
            upload["described"],
        )
        upload["data"] = b""
        self._answer_json(upload["made"])

    def _give_up(self, parts: dict[str, str], query: dict[str, str], body: bytes) -> None:
        self.emulator.uploads.pop(query.get("upload_id", ""), None)
        self._answer(499, b"")

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


def _multipart(content_type: str, body: bytes) -> tuple[dict[str, Any], bytes, str]:
    """The description, the data and its type in the two parts of an upload."""
    found = re.search(r'boundary="?([^";]+)"?', content_type)
    if found is None:
        raise Refused(400, "invalid multipart: no boundary")
    line = b"--" + found[1].encode()
    parts = body.rpartition(line)[0].split(line, 2)
    if len(parts) != 3:
        raise Refused(400, f"invalid multipart: {len(parts) - 1} parts")
    (_, described), (head, data) = (
        re.split(rb"\r?\n\r?\n", part, maxsplit=1) for part in parts[1:]
    )
    kind = re.search(rb"Content-Type: *([^\r\n]+)", head, re.IGNORECASE)
    data = data[:-2] if data.endswith(b"\r\n") else data[:-1]
    return json.loads(described), data, kind[1].decode() if kind else "application/octet-stream"
