"""Buckets of an emulated Cloud Storage, as fixtures for every test folder."""

import os
import types
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from storage.gcs_emulator import GcsEmulator
from storage.gcs_faults import Faults


class Bucket:
    """An empty bucket of the emulator.

    What this process and those that it starts do with gs:// paths goes there.
    """

    def __init__(self, emulator: GcsEmulator, name: str) -> None:
        self._emulator, self.name = emulator, name
        self.url = f"gs://{name}"
        emulator.objects.make_bucket(name)

    @property
    def faults(self) -> Faults:
        """What goes wrong from here on; nothing until told."""
        return self._emulator.faults

    @property
    def requests(self) -> list[str]:
        """Method and path with query of every request of this test so far."""
        return self._emulator.requests

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process that comes to this emulator."""
        return {**os.environ, **self._emulator.environment}

    def files(self, folder: str = "") -> dict[str, bytes]:
        """The objects under a folder of the bucket, by their name below it."""
        prefix = f"{folder.strip('/')}/" if folder else ""
        found = self._emulator.objects.bucket(self.name)
        return {
            name.removeprefix(prefix): content.data
            for name, content in found.items()
            if name.startswith(prefix)
        }

    def states(self) -> list[dict[str, bytes]]:
        """A list that from here on gets all objects by name, as they are after each change.

        What a client that is killed leaves behind is one of these.
        """
        seen: list[dict[str, bytes]] = []

        def look(bucket: str, name: str) -> None:
            if bucket == self.name:
                seen.append(self.files())

        self._emulator.objects.on_change = look
        return seen

    def put(self, name: str, content: bytes) -> None:
        """Write an object past every client."""
        self._emulator.objects.put(self.name, name, content, {})

    def remove(self, name: str) -> None:
        """Remove an object past every client."""
        self._emulator.objects.remove(self.name, name, {})


@pytest.fixture(scope="session")
def gcs_emulator() -> Iterator[GcsEmulator]:
    """One server for all tests of a process."""
    with GcsEmulator() as emulator:
        yield emulator


@contextmanager
def empty_bucket(emulator: GcsEmulator) -> Iterator[Bucket]:
    """A new bucket; within it, gs:// is the emulator for this process."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in emulator.environment.items():
            monkeypatch.setenv(name, value)
        pytest.importorskip("gcsfs")  # which reads them when it is imported
        emulator.requests.clear()
        yield Bucket(emulator, f"test-{len(emulator.objects.names())}")
        emulator.faults.clear()
        emulator.objects.on_change = lambda bucket, name: None


@pytest.fixture
def bucket(gcs_emulator: GcsEmulator) -> Iterator[Bucket]:
    """An empty bucket, of which `.url` is gs://NAME."""
    with empty_bucket(gcs_emulator) as made:
        yield made


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """gcsfs waits a hundredth as long before it tries again; seconds, otherwise."""
    import asyncio

    import gcsfs.retry

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds / 100)

    monkeypatch.setattr(gcsfs.retry, "asyncio", types.SimpleNamespace(sleep=sleep))
