"""Tokens stand for characters of their text: all of these, in order, each where it is."""

from pathlib import Path

import numpy as np
import pytest

from jaxllm.data.sentence_pieces import SentencePieceTokenizer, train_model
from jaxllm.data.token_places import encode_placed
from jaxllm.data.tokenizer import ByteTokenizer, HuggingFaceTokenizerConfig

TOKENIZERS = Path(__file__).parents[1] / "golden" / "hf_tokenizers"
TEXT = "  The U.S. of (Am\u00e9rica)  \u2581x \u6771\u4eac, 1990s\u00a0end \U0001f600!\n"


@pytest.fixture(scope="module")
def pieces():
    model = train_model(["the war and the peace of 1990 " * 40], vocab_size=300, algorithm="bpe")
    return SentencePieceTokenizer(model, name="a test")


@pytest.fixture(params=["byte", "sentencepiece", "bert_uncased", "roberta_merges", "t5_pieces"])
def tokenizer(request, pieces):
    if request.param == "byte":
        return ByteTokenizer()
    if request.param == "sentencepiece":
        return pieces
    return HuggingFaceTokenizerConfig(path=str(TOKENIZERS / request.param)).build()


def test_places_cover_every_character_but_spaces_and_nothing_else(tokenizer):
    ids, places = encode_placed(tokenizer, TEXT)
    np.testing.assert_array_equal(ids, tokenizer.encode(TEXT))
    is_covered, spelled = np.zeros(len(TEXT), bool), np.zeros(len(TEXT), int)
    for id_, (first, stop) in zip(ids, places, strict=True):
        assert TEXT[first:stop] == TEXT[first:stop].strip()
        is_covered[first:stop] = True
        # What marks a space may be said to be of the character behind it.
        spelled[first:stop] += bool(tokenizer.decode([id_]).strip(" "))
    assert all(is_covered[i] or char.isspace() for i, char in enumerate(TEXT))
    assert (np.diff(places, axis=0) >= 0).all()
    # Only tokens that are parts of one character have it together.
    assert (spelled[[c.isascii() for c in TEXT]] <= 1).all()


@pytest.mark.parametrize("tokenizer", ["byte", "sentencepiece"], indirect=True)
def test_a_token_spells_its_characters(tokenizer):
    text = "the war of 1990"
    ids, places = encode_placed(tokenizer, text)
    found = [text[first:stop] for first, stop in places]
    assert found == [tokenizer.decode([id_]).strip() for id_ in ids]


def test_a_tokenizer_that_does_not_tell_is_refused():
    marian = HuggingFaceTokenizerConfig(path=str(TOKENIZERS / "marian_pieces")).build()
    with pytest.raises(ValueError, match=r"MarianTokenizer does not tell .*`data\.tokenizer`"):
        encode_placed(marian, "a text")


def test_a_model_that_changes_its_text_is_refused(pieces, monkeypatch):
    monkeypatch.setattr(pieces, "spelled", lambda ids: [b"x" for _ in ids])
    with pytest.raises(ValueError, match="changes the text that it encodes"):
        encode_placed(pieces, "the war")


def test_a_space_that_a_model_writes_before_a_text_is_no_character_of_it(pieces, monkeypatch):
    text = "the war"
    expected = encode_placed(pieces, text)[1]
    spelled = pieces.spelled
    monkeypatch.setattr(
        pieces, "spelled", lambda ids: [b" " + spelled(ids[:1])[0], *spelled(ids[1:])]
    )
    np.testing.assert_array_equal(encode_placed(pieces, text)[1], expected)
