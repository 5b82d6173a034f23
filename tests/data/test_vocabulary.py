from pathlib import Path

import pytest

from jaxllm.data import DataConfig
from jaxllm.data.vocabulary import known_kinds, known_vocab_size

GOLDEN = Path(__file__).parents[1] / "golden/hf_tokenizers"

CORPUS = {"type": "corpus", "corpus": {"type": "text", "paths": ["nowhere/*.txt"]}}
BIN = {"type": "bin", "train": "nowhere.bin", "vocab_size": 60, "delimiter_id": 0}


@pytest.mark.parametrize(
    ("tokenizer", "dataset", "size"),
    [
        ({"type": "byte"}, CORPUS, 257),
        ({"type": "sentencepiece", "vocab_size": 512}, CORPUS, 512),
        ({"type": "sentencepiece", "model_path": "nowhere.model"}, CORPUS, None),
        ({"type": "hf", "path": "nowhere.json"}, CORPUS, None),
        (None, BIN, 60),
        (None, {"type": "synthetic", "vocab_size": 70}, 70),
        (None, {"type": "prepared", "path": "nowhere"}, None),
    ],
)
def test_what_a_config_says_without_its_data(tokenizer, dataset, size):
    config = DataConfig.model_validate(
        {
            "sequence_length": 8,
            "global_batch_size": 2,
            "tokenizer": tokenizer,
            "datasets": {"one": dataset},
        }
    )
    assert known_vocab_size(config) == size


def test_a_dataset_knows_its_mask(tmp_path):
    """So that masked language modelling asks for no other id beside it."""
    (tmp_path / "text.txt").write_text("the war of peace and people " * 20)
    corpus = {"type": "corpus", "corpus": {"type": "text", "paths": [str(tmp_path / "*.txt")]}}
    config = DataConfig.model_validate(
        {
            "sequence_length": 8,
            "global_batch_size": 2,
            "root": str(tmp_path),
            "tokenizer": {"type": "hf", "path": str(GOLDEN / "bert_uncased")},
            "datasets": {"one": {**corpus, "validation_every": 0}},
        }
    )
    data = config.build()
    prepared = {"one": {"type": "prepared", "path": str(data.folders["one"])}}
    again = DataConfig.model_validate(
        {**config.model_dump(), "tokenizer": None, "datasets": prepared}
    )
    assert data.kinds.mask_id is not None
    assert known_kinds(again).mask_id == known_kinds(config).mask_id == data.kinds.mask_id
