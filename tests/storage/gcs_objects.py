"""What an emulated Cloud Storage holds: buckets of objects with generations and preconditions.

The rules are those of the JSON API: https://cloud.google.com/storage/docs/json_api/v1/objects and
https://cloud.google.com/storage/docs/request-preconditions
"""

import base64
import itertools
import threading
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import md5
from typing import Any


class Refused(Exception):
    """An answer of the service that is not a success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass(frozen=True)
class Object:
    """One generation of an object."""

    name: str
    data: bytes
    generation: int
    content_type: str = "application/octet-stream"
    metadata: Mapping[str, str] = field(default_factory=dict)
    updated: datetime = field(default_factory=lambda: datetime.now(UTC))

    def resource(self, bucket: str) -> dict[str, Any]:
        """As the JSON API describes it."""
        time = self.updated.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "kind": "storage#object",
            "id": f"{bucket}/{self.name}/{self.generation}",
            "name": self.name,
            "bucket": bucket,
            "generation": str(self.generation),
            "metageneration": "1",
            "contentType": self.content_type,
            "storageClass": "STANDARD",
            "size": str(len(self.data)),
            "md5Hash": base64.b64encode(md5(self.data).digest()).decode(),
            "etag": f"{zlib.crc32(self.data):x}-{self.generation}",
            "timeCreated": time,
            "updated": time,
            **({"metadata": dict(self.metadata)} if self.metadata else {}),
        }


class Objects:
    """Buckets by name. Every method is one atomic step."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._buckets: dict[str, dict[str, Object]] = {}
        self.on_change: Callable[[str, str], None] = lambda bucket, name: None
        """Called after each change with the bucket and the name of the object."""
        self._generations = itertools.count(1_700_000_000_000_000)

    def make_bucket(self, bucket: str) -> None:
        """409 if there is one."""
        with self._lock:
            if bucket in self._buckets:
                raise Refused(409, f"The bucket {bucket} exists")
            self._buckets[bucket] = {}

    def remove_bucket(self, bucket: str) -> None:
        """409 unless it is empty."""
        with self._lock:
            if self.bucket(bucket):
                raise Refused(409, "The bucket you tried to delete is not empty.")
            del self._buckets[bucket]

    def names(self) -> list[str]:
        """Of all buckets."""
        with self._lock:
            return list(self._buckets)

    def bucket(self, bucket: str) -> dict[str, Object]:
        """A bucket's objects by name, as they are now."""
        with self._lock:
            if bucket not in self._buckets:
                raise Refused(404, "The specified bucket does not exist.")
            return dict(self._buckets[bucket])

    def get(self, bucket: str, name: str, query: Mapping[str, str]) -> Object:
        """404 without such an object or generation; 412 and 304 as the preconditions say."""
        with self._lock:
            found = self.bucket(bucket).get(name)
            wanted = query.get("generation")
            if found is None or (wanted and int(wanted) != found.generation):
                self._check(query, None)
                raise Refused(404, f"No such object: {bucket}/{name}")
            self._check(query, found)
            return found

    def put(
        self,
        bucket: str,
        name: str,
        data: bytes,
        query: Mapping[str, str],
        *,
        content_type: str = "application/octet-stream",
        metadata: Mapping[str, str] | None = None,
    ) -> Object:
        """Write an object as a whole; 412 if a precondition does not hold."""
        with self._lock:
            self._check(query, self.bucket(bucket).get(name))
            made = Object(name, data, next(self._generations), content_type, metadata or {})
            self._buckets[bucket][name] = made
            self.on_change(bucket, name)
            return made

    def remove(self, bucket: str, name: str, query: Mapping[str, str]) -> None:
        """404 without such an object; 412 if a precondition does not hold."""
        with self._lock:
            self.get(bucket, name, query)
            del self._buckets[bucket][name]
            self.on_change(bucket, name)

    def copy(self, source: tuple[str, str], target: tuple[str, str], query: Mapping) -> Object:
        """Write a copy; preconditions are the target's."""
        with self._lock:
            wanted = (
                {"generation": query["sourceGeneration"]} if "sourceGeneration" in query else {}
            )
            found = self.get(*source, wanted)
            return self.put(*target, found.data, query, content_type=found.content_type)

    def list(self, bucket: str, query: Mapping[str, str]) -> dict[str, Any]:
        """One page of objects, and of prefixes up to a delimiter, in the order of names."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        start, end = query.get("startOffset", ""), query.get("endOffset", "")
        limit = min(int(query.get("maxResults") or 1000), 1000)
        after = base64.b64decode(query.get("pageToken", "")).decode()
        items: list[Object] = []
        prefixes: list[str] = []
        last = token = ""
        for name, found in sorted(self.bucket(bucket).items()):
            if not name.startswith(prefix) or name < start or (end and name >= end):
                continue
            head, cut, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
            key = prefix + head + cut if cut else name
            if (after and key <= after) or (prefixes and key == prefixes[-1]):
                continue
            if len(items) + len(prefixes) == limit:
                token = base64.b64encode(last.encode()).decode()
                break
            last = key
            if cut:
                prefixes.append(key)
            else:
                items.append(found)
        page: dict[str, Any] = {"kind": "storage#objects"}
        if items:
            page["items"] = [item.resource(bucket) for item in items]
        return (
            page
            | ({"prefixes": prefixes} if prefixes else {})
            | ({"nextPageToken": token} if token else {})
        )

    @staticmethod
    def _check(query: Mapping[str, str], found: Object | None) -> None:
        generation = 0 if found is None else found.generation
        wanted, unwanted = query.get("ifGenerationMatch"), query.get("ifGenerationNotMatch")
        if wanted is not None and int(wanted) != generation:
            raise Refused(412, "At least one of the pre-conditions you specified did not hold.")
        if unwanted is not None and int(unwanted) == generation:
            raise Refused(304, "Not Modified")
