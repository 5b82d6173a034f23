"""The three ways by which a client of the emulated Cloud Storage sends an object.

https://cloud.google.com/storage/docs/uploads-downloads and
https://cloud.google.com/storage/docs/performing-resumable-uploads
"""

import json
import re
import uuid
from typing import Any

from .gcs_objects import Refused


class Uploads:
    """The part of a request handler that takes uploads."""

    emulator: Any
    headers: Any
    path: str
    _answer: Any
    _answer_json: Any

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
