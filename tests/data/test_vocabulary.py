import pytest

from jaxllm.data import DataConfig
from jaxllm.data.vocabulary import known_vocab_size

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
