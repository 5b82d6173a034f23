"""The shards of a split, written by TFDS's Beam writer: byte for byte what `write_shard` writes.

That writer sorts records by their keys, and cuts the range of keys into equal shards. Keys are the
records' numbers, so the order is that of the stream; the last record's key is the number at which
all shards would be full, so that all are but the last.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
from pydantic import TypeAdapter
from tensorflow_datasets.core import example_serializer, file_adapters, naming, writer
from tensorflow_datasets.core.utils import shard_utils

from jaxllm.data.dataset_folder import dataset_features
from jaxllm.data.parts import ShardTask, shard_ids
from jaxllm.data.records import FEATURE, write_records
from jaxllm.data.whole_files import written
from jaxllm.storage import as_path


def write_split(lines: Any, tasks: Sequence[ShardTask]) -> Callable[[], None]:
    """Adds the writing of one split to the pipeline of `lines`, the split's tasks in JSON.

    What it returns is called when the pipeline is done, and asserts that all shards are there.
    """
    first = tasks[0]
    template = naming.ShardedFileTemplate(
        data_dir=as_path(first.path).parent,
        dataset_name=naming.FilenameInfo.from_str(Path(first.path).name).dataset_name,
        split=first.split,
        filetype_suffix="array_record",
    )
    shards = writer.BeamWriter(
        serializer=example_serializer.ExampleSerializer(
            dataset_features(first.dtype).get_serialized_info()
        ),
        filename_template=template,
        hash_salt=first.split,
        disable_shuffling=True,
        example_writer=_Uncompressed(file_adapters.FileFormat.ARRAY_RECORD),
        shard_config=shard_utils.ShardConfig(num_shards=len(tasks)),
    )
    records = lines | f"{first.split} records" >> beam.FlatMap(
        _records, last_record=sum(task.records for task in tasks) - 1, last_key=last_key(tasks)
    )
    _ = records | f"{first.split} shards" >> _Shards(shards)

    def check() -> None:
        lengths, _ = shards.finalize()
        assert lengths == [task.records for task in tasks], (lengths, first.split)

    return check


def last_key(tasks: Sequence[ShardTask]) -> int:
    """The key of a split's last record, by which TFDS's writer gives each record its shard.

    Record r goes to shard floor(r * S / key), or the last. For key = S * C that is floor(r / C).
    """
    return len(tasks) * tasks[0].records


class _Shards(beam.PTransform):
    """The writer's transforms, under a name of their own."""

    def __init__(self, shards: Any) -> None:
        super().__init__()
        self._shards = shards

    def expand(self, records: Any) -> Any:
        return self._shards.write_from_pcollection(records)


class _Uncompressed(writer.ExampleWriter):
    """Writes shards as `write_shard` does, also into a bucket, where ArrayRecord cannot write."""

    def write(self, path: Any, examples: Any) -> None:
        with written(as_path(path)) as local:
            write_records(local, (example for _, example in examples))


def _records(line: str, *, last_record: int, last_key: int) -> Iterator[tuple[int, Any]]:
    """The records of a shard with their keys."""
    task = TypeAdapter(ShardTask).validate_json(line.split("\t", 1)[1])
    features = _features(task.dtype)
    for record, ids in enumerate(shard_ids(task), task.first):
        key = last_key if record == last_record else record
        yield key, features.encode_example({FEATURE: np.ascontiguousarray(ids)})


_features = cache(dataset_features)
