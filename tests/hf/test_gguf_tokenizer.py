"""Tokenizers in the metadata of GGUF files give the ids of the tokenizers that they were made of.

Those are the ones of tests/golden/hf_tokenizers, with the recorded ids of transformers.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from jaxllm.data.tokenizer_pieces import read_proto
from jaxllm.hf.gguf_tokenizer import read_tokenizer
from jaxllm.hf.tokenizer import find_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden/hf_tokenizers"
TEXTS = json.loads((GOLDEN / "texts.json").read_text())["texts"]
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
SPLITS = {"gpt2_merges": "gpt-2", "qwen2_merges": "qwen2", "llama3_ranks": "llama-bpe"}
PIECES = GOLDEN / "llama_pieces/tokenizer.model"


def read(metadata, *, vocab_size=100_000):
    given = {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}
    return read_tokenizer(given, name="m.gguf", vocab_size=vocab_size)


def merges_of(kind):
    """The metadata that the converter writes for a folder with a byte-level BPE."""
    found = find_tokenizer(GOLDEN / kind, vocab_size=None)
    content = json.loads(found.model)
    added = {token["content"]: token for token in content["added_tokens"]}
    ids = content["model"]["vocab"] | {token: value["id"] for token, value in added.items()}
    tokens = sorted(ids, key=ids.__getitem__)
    assert [ids[token] for token in tokens] == list(range(len(tokens)))
    types = [NORMAL] * len(tokens)
    for token, value in added.items():
        types[ids[token]] = CONTROL if value["special"] else USER_DEFINED
    roles = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding"}
    special = {
        f"{roles[role]}_token_id": ids[token]
        for role, token in found.special_tokens.items()
        if role in roles
    }
    merges = [" ".join(pair) for pair in content["model"]["merges"]]
    return {"model": "gpt2", "tokens": tokens, "merges": merges, "token_type": types, **special}


def pieces(**changes):
    """The metadata that the converter writes for a folder with a SentencePiece model."""
    proto = read_proto(PIECES.read_bytes(), name="it")
    found = {
        "model": "llama",
        "tokens": [piece.piece for piece in proto.pieces],
        "scores": np.array([piece.score for piece in proto.pieces], np.float32),
        "token_type": np.array([piece.type for piece in proto.pieces], np.int32),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }
    return found | changes


@pytest.mark.parametrize("kind", SPLITS)
def test_byte_pairs_give_the_recorded_ids(kind):
    reference = json.loads((GOLDEN / kind / "reference.json").read_text())
    tokenizer = read({**merges_of(kind), "pre": SPLITS[kind]})
    for index, text in enumerate(TEXTS):
        ids = tokenizer.encode_with_specials(text, add=False).ids.tolist()
        assert ids == reference["plain"][index], text
        assert tokenizer.encode(text).tolist() == reference["text"][index], text


def test_digits_stand_alone_where_the_name_says_so():
    metadata = merges_of("gpt2_merges")
    tokens, merges = (
        [*metadata["tokens"], "97", "\u01209"],
        [*metadata["merges"], "9 7", "\u0120 9"],
    )
    metadata |= {"tokens": tokens, "merges": merges, "token_type": [NORMAL] * len(tokens)}
    first, second = len(tokens) - 2, len(tokens) - 1
    for pre, joined in (("gpt-2", True), ("smollm", False)):
        tokenizer = read({**metadata, "pre": pre})
        assert (first in tokenizer.encode("a97")) is joined
        assert (second in tokenizer.encode("a 9")) is joined
        assert tokenizer.decode(tokenizer.encode("a97 9")) == "a97 9"


def test_a_part_that_is_a_token_is_that_token_where_merges_are_ignored():
    metadata = merges_of("gpt2_merges")
    whole = "doesnotmerge"
    tokens = [*metadata["tokens"], whole]
    metadata |= {"tokens": tokens, "token_type": [NORMAL] * len(tokens)}
    for pre, is_whole in (("llama-bpe", True), ("tekken", True), ("gpt-2", False)):
        ids = read({**metadata, "pre": pre}).encode(whole)
        assert (ids.tolist() == [len(tokens) - 1]) is is_whole


def test_a_capital_begins_a_part_where_the_name_says_so():
    metadata = merges_of("gpt2_merges")
    tokens = [*metadata["tokens"], "Qwfpg", "Zxcdv"]
    metadata |= {"tokens": tokens, "token_type": [NORMAL] * len(tokens)}
    both = [len(tokens) - 2, len(tokens) - 1]
    for pre, is_cut in (("tekken", True), ("llama-bpe", False)):
        ids = read({**metadata, "pre": pre}).encode("QwfpgZxcdv")
        assert (ids.tolist() == both) is is_cut


@pytest.mark.parametrize("has_prefix", [True, False])
def test_pieces_give_the_ids_of_sentencepiece(has_prefix):
    proto = read_proto(PIECES.read_bytes(), name="it")
    proto.normalizer_spec.add_dummy_prefix = has_prefix
    expected = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    tokenizer = read(pieces(add_space_prefix=has_prefix))
    for text in TEXTS:
        ids = tokenizer.encode(text).tolist()
        assert ids == expected.encode(text), text
        assert tokenizer.decode(ids) == expected.decode(ids), text


def test_special_tokens_and_what_goes_around_a_text():
    tokenizer = read(pieces())
    assert tokenizer.special_tokens == {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    assert (tokenizer.delimiter, tokenizer.stop_ids) == ("<s>", (2,))
    plain = tokenizer.encode("Hello").tolist()
    assert tokenizer.encode_with_specials("Hello").ids.tolist() == [1, *plain]
    both = read(pieces(add_bos_token=False, add_eos_token=True, eot_token_id=5))
    assert both.encode_with_specials("Hello").ids.tolist() == [*plain, 2]
    assert both.stop_ids == (2, 5)
    llama3 = read({**merges_of("llama3_ranks"), "pre": "llama-bpe"})
    assert llama3.encode_with_specials("").ids.tolist() == [llama3.delimiter_id]
    qwen2 = read({**merges_of("qwen2_merges"), "pre": "qwen2"})
    assert qwen2.delimiter == "<|endoftext|>"  # it has no bos_token
    assert not qwen2.encode_with_specials("").ids.size


def test_user_defined_tokens_are_never_cut_and_empty_ones_are_there():
    metadata = merges_of("gpt2_merges")
    tokens, types = [*metadata["tokens"], "<tool>", "", ""], [*metadata["token_type"], 4, 5, 5]
    tokenizer = read({**metadata, "pre": "gpt-2", "tokens": tokens, "token_type": types})
    assert tokenizer.vocab_size == len(tokens)
    assert tokenizer.encode("x<tool>").tolist()[-1] == len(metadata["tokens"])
    assert tokenizer.special_id("<tool>") is None


def test_chat_templates():
    given = {f"tokenizer.ggml.{key}": value for key, value in pieces().items()}
    given |= {
        "tokenizer.chat_template": "{{ bos_token }}{{ messages[0].content }}",
        "tokenizer.chat_templates": ["short"],
        "tokenizer.chat_template.short": "{{ eos_token }}",
    }
    template = read_tokenizer(given, name="m.gguf", vocab_size=1000).chat_template
    messages = [{"role": "user", "content": "Hi"}]
    assert template.render(messages) == "<s>Hi"
    assert template.render(messages, template="short") == "</s>"
    assert read(pieces()).chat_template is None


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"model": "bert", "tokens": ["a"]}, "model='bert' is not known here, only gpt2, llama"),
        ({"model": "gpt2"}, "0 tokens with 0 types, 0 of them more than once"),
        (
            {"model": "gpt2", "tokens": ["a", "b", "a"]},
            "3 tokens with 3 types, 1 of them more than",
        ),
        (pieces(eos_token_id=100_000), "eos_token_id=100000, and there are"),
        (pieces(remove_extra_whitespaces=True), "remove_extra_whitespaces is not supported"),
        (pieces(scores=[0.0]), "tokens with 1 scores are no SentencePiece model"),
        (pieces(scores=[0.0] * len(pieces()["tokens"])), "have the same score"),
        ({"model": "gpt2", "tokens": ["a"], "bos_token_id": 0}, "no tokenizer.ggml.pre"),
        ({"model": "gpt2", "tokens": ["a"], "pre": "falcon"}, "pre='falcon', .* known are gpt-2"),
        (
            {"model": "gpt2", "tokens": ["a"], "pre": "gpt-2", "merges": ["a b"]},
            "merges do not fit",
        ),
        ({"model": "gpt2", "tokens": ["a"], "pre": "gpt-2"}, "names no special token"),
    ],
)
def test_what_is_no_tokenizer_or_not_known(metadata, message):
    with pytest.raises(ValueError, match=message):
        read(metadata)


def test_a_vocabulary_larger_than_the_embedding():
    with pytest.raises(ValueError, match="and the embedding 7 rows: they do not belong together"):
        read(pieces(), vocab_size=7)
