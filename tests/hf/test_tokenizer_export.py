import json
import random

import pytest

from jaxllm.data.sentence_pieces import SentencePieceTokenizerConfig
from jaxllm.data.tokenizer import ByteTokenizerConfig, HuggingFaceTokenizerConfig
from jaxllm.hf.tokenizer import write_tokenizer

from .tokenizer_folders import GOLDEN, TEXTS, copied, found

LINE = """the of and to in state union nation people 12 every other which there were all when your
how said each congress great country citizens government representatives"""


def own_kind(name):
    if name == "byte":
        return ByteTokenizerConfig().build()
    source = random.Random(1)
    words = ["house\n\t", "year,", *LINE.split()]
    texts = [" ".join(source.choices(words, k=300)) + "  " for _ in range(20)]
    size = {"bpe": 340, "unigram": 300}[name]
    return SentencePieceTokenizerConfig(vocab_size=size, algorithm=name).build(texts)


@pytest.mark.parametrize("kind", ["byte", "bpe", "unigram"])
def test_our_own_kinds_are_written_with_the_same_ids(kind, tmp_path):
    tokenizer = own_kind(kind)
    write_tokenizer(tokenizer, tmp_path)
    assert (tmp_path / "tokenizer.model").exists() == (kind != "byte")
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["split_special_tokens"] is True
    opened = found(tmp_path, vocab_size=tokenizer.vocab_size)
    assert opened.delimiter_id == tokenizer.delimiter_id
    assert opened.stop_ids == tokenizer.stop_ids
    source = random.Random(0)
    words = ["the", " of", "  ", "\u2581", "<unk>", "<0x41>", "<|document|>", "\n", "7", "\u4e2d"]
    for text in [*TEXTS, *("".join(source.choices(words, k=40)) for _ in range(50))]:
        ids = tokenizer.encode(text).tolist()
        assert opened.encode(text).tolist() == ids, text
        assert opened.decode(ids) == text
    with_specials = opened.encode_with_specials("one").ids.tolist()
    assert with_specials == [tokenizer.delimiter_id, *tokenizer.encode("one").tolist()]


@pytest.mark.parametrize("kind", ["gemma_pieces", "llama_pieces"])
def test_a_model_of_a_config_is_written_with_the_same_ids(kind, tmp_path):
    file = str(GOLDEN / kind / "tokenizer.model")
    tokenizer = SentencePieceTokenizerConfig(model_path=file).build()
    write_tokenizer(tokenizer, tmp_path)
    opened = found(tmp_path)
    for text in TEXTS:
        if "\u2581" not in text or kind == "gemma_pieces":
            assert opened.encode(text).tolist() == tokenizer.encode(text).tolist(), text


def test_a_tokenizer_json_of_a_config_is_written_with_its_delimiter(tmp_path):
    folder = copied("json_bytelevel", tmp_path)
    tokenizer = HuggingFaceTokenizerConfig(path=str(folder / "tokenizer.json")).build()
    write_tokenizer(tokenizer, tmp_path / "export")
    content = (tmp_path / "export/tokenizer.json").read_bytes()
    assert content == (folder / "tokenizer.json").read_bytes()
    opened = found(tmp_path / "export")
    assert opened.special_tokens["eos_token"] == opened.special_tokens["bos_token"]
    assert opened.delimiter_id == tokenizer.delimiter_id
