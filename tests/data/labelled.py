"""Labelled texts and what is made of them, for tests of examples."""

import json

from jaxllm.data import DataConfig
from jaxllm.data.labelled_texts import LabelledTextsConfig
from jaxllm.data.tokenizer import ByteTokenizer

LENGTH = 16


def write_jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def records(count=40, *, groups=7):
    """Texts of different lengths; of a group several, not next to each other.

    That every fifth group is held out holds out other texts than every fifth one.
    """
    return [
        {"text": f"text {n} " + "x" * (3 * n), "label": "ab"[n % 2], "of": f"g{n % groups}"}
        for n in range(count)
    ]


def dataset(path, **options):
    given = {"source": {"type": "jsonl", "paths": [str(path)]}, "labels": ("a", "b"), **options}
    return LabelledTextsConfig.model_validate({k: v for k, v in given.items() if v is not None})


def build(path, root, *, length=LENGTH, **options):
    config = DataConfig.model_validate(
        {
            "sequence_length": length,
            "global_batch_size": 8,
            "tokenizer": {"type": "byte"},
            "datasets": {"texts": dataset(path, **options)},
            "root": str(root),
        }
    )
    return config.build()


def decoded(rows, row):
    (ids,) = rows.text_tokens(row)
    return ByteTokenizer().decode(ids)
