"""TensorBoard event files, written and cut back without TensorFlow.

An event file is a sequence of records: length (uint64, little-endian), masked CRC-32C of the
length (uint32), a serialised `Event` of that length, masked CRC-32C of the event (uint32).
Source of the format: tensorflow/core/lib/io/record_writer.h and tensorflow/core/util/event.proto.
"""

import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxllm.training.logfile import LogFile, replace_file

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")


class EventFile:
    """A new event file in `directory`; one for each process that writes there."""

    def __init__(self, directory: Path) -> None:
        # The viewer reads the files of a folder in the order of their names, so time comes first.
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._log = LogFile(directory / name)
        self._begun = False

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds the numbers of `record` as scalars (float32) at `record["step"]`."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in record.items()
            if tag != "step" and isinstance(value, int | float)
        ]
        self._append(step=record["step"], summary=Summary(value=values))

    def text(self, step: int, *, sample: str, prompt: str) -> None:
        """Adds a sample. The viewer shows Markdown, so both are indented: shown as they are."""
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING

        markdown = f"prompt\n\n{_verbatim(prompt)}\n\nsample\n\n{_verbatim(sample)}"
        value = Summary.Value(
            tag="sample",
            metadata=SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text")),
            tensor=TensorProto(dtype=DT_STRING, string_val=[markdown.encode()]),
        )
        self._append(step=step, summary=Summary(value=[value]))

    def close(self) -> None:
        """Closes the file; every event is in it already."""
        self._log.close()

    def _append(self, **fields: Any) -> None:
        """Adds one event; the first comes with the version, so that a file has both or neither."""
        version = b"" if self._begun else _event(file_version="brain.Event:2")
        self._log.append(version + _event(**fields))
        self._begun = True


def cut_back_events(directory: Path, step: int) -> None:
    """Drops the events after `step`, and a torn last record, from the event files of `directory`.

    A file with nothing to drop is left alone; the others are replaced at once.
    """
    for path in sorted(directory.glob("events.out.tfevents.*")):
        content = path.read_bytes()
        kept = b"".join(frame for frame, at in _frames(content) if at is None or at <= step)
        if kept != content:
            replace_file(path, kept)


def _event(**fields: Any) -> bytes:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    event = Event(wall_time=time.time(), **fields).SerializeToString()
    length = struct.pack("<Q", len(event))
    return (
        _HEADER.pack(len(event), masked_crc32c(length)) + event + _FOOTER.pack(masked_crc32c(event))
    )


def _frames(content: bytes) -> Iterator[tuple[bytes, int | None]]:
    """Yields each complete record with its event's step (None: the version event, which belongs to
    the file); ends before a torn one.

    The CRC of an event's body is not compared: it is computed in Python at 10 MB/s, and a body
    that is not an event does not parse.
    """
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    start = 0
    while start + _HEADER.size <= len(content):
        length, checksum = _HEADER.unpack_from(content, start)
        body = start + _HEADER.size
        end = body + length + _FOOTER.size
        if checksum != masked_crc32c(content[start : start + 8]) or end > len(content):
            return
        try:
            event = Event.FromString(content[body : body + length])
        except DecodeError:
            return
        yield content[start:end], None if event.HasField("file_version") else event.step
        start = end


def _verbatim(text: str) -> str:
    """`text` as a Markdown code block."""
    return "\n".join("    " + line for line in text.splitlines())
