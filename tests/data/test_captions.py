"""Pictures with texts become rows, each text with an end that stands for it."""

from pathlib import Path

import numpy as np
from PIL import Image

from jaxllm.data import DataConfig
from jaxllm.data.captions import CaptionsConfig, closed_frame
from jaxllm.data.example_record import ExampleRecord
from jaxllm.data.example_table import table_of
from jaxllm.data.tokenizer import ByteTokenizer, HuggingFaceTokenizerConfig

LENGTH, SIZE = 8, 4
DELIMITER = ByteTokenizer.delimiter_id
TOKENIZERS = Path(__file__).parents[1] / "golden" / "hf_tokenizers"


def noise(seed):
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def test_the_fields_of_a_row(tmp_path):
    texts = ["a cat", "a dog on a mat", "x", "two"]
    (tmp_path / "all.csv").write_text(
        "name,text\n" + "".join(f"{n},{text}\n" for n, text in enumerate(texts))
    )
    for n in range(len(texts)):
        Image.fromarray(noise(n)).save(tmp_path / f"{n}.png")
    source = {
        "type": "table",
        "paths": [f"{tmp_path}/all.csv"],
        "files": {"image": f"{tmp_path}/{{name}}.png"},
    }
    data = DataConfig.model_validate(
        {
            "sequence_length": LENGTH,
            "global_batch_size": 2,
            "tokenizer": {"type": "byte"},
            "datasets": {
                "told": {"type": "captions", "source": source, "size": SIZE, "validation_every": 0}
            },
            "root": str(tmp_path / "root"),
        }
    ).build()
    rows = data.examples["told"]["train"]
    batch = rows.read([1, 2])
    np.testing.assert_array_equal(batch["tokens"][0], [*b"a dog o", DELIMITER])
    np.testing.assert_array_equal(batch["tokens"][1], [*b"x", *[DELIMITER] * 7])
    np.testing.assert_array_equal(batch["segment_ids"].sum(axis=1), [8, 2])
    np.testing.assert_array_equal(batch["pixels"], [noise(1), noise(2)])
    np.testing.assert_array_equal(rows.sizes, [6, 8, 2, 4])
    assert rows.truncated == (1, 7)
    shapes = data.config.datasets["told"].shapes(2, LENGTH)
    batch = data.train_loader(seed=0).batch(0)
    assert {name: (field.shape, field.dtype) for name, field in batch.items()} == {
        name: (shape.shape, shape.dtype) for name, shape in shapes.items()
    }


def test_a_picture_that_is_asked_about_needs_no_text():
    source = {"type": "jsonl", "paths": ["none"]}
    dataset = CaptionsConfig.model_validate({"source": source, "size": SIZE})
    record = ExampleRecord({"image": noise(3)}, "here")
    (only,) = dataset.encode(record, ByteTokenizer(), is_labelled=False)
    rows = dataset.rows(table_of([only]), LENGTH, tokenizer=ByteTokenizer())
    batch = rows.read([0])
    assert set(batch) == {"pixels", "loss_mask"}
    np.testing.assert_array_equal(batch["pixels"][0], noise(3))
    assert rows.truncated == (0, 0)
    assert rows.sizes.tolist() == [LENGTH]


def test_a_tokenizer_that_closes_texts_itself_is_left_alone():
    tokenizer = HuggingFaceTokenizerConfig(path=str(TOKENIZERS / "bert_uncased")).build()
    frame = closed_frame(tokenizer)
    ids, _ = frame.around([tokenizer.encode("word")])
    assert ids.tolist() == list(tokenizer.encode_with_specials("word").ids)
    plain, _ = closed_frame(ByteTokenizer()).around([ByteTokenizer().encode("word")])
    assert plain.tolist() == [*b"word", DELIMITER]


def test_a_tokenizer_learns_from_the_texts():
    config = CaptionsConfig.model_validate(
        {"source": {"type": "jsonl", "paths": ["none.jsonl"]}, "size": SIZE}
    )
    assert config.texts(ExampleRecord({"text": "a cat"}, "here:1")) == ["a cat"]
