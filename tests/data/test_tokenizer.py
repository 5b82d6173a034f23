import random

import numpy as np
import pytest

from jaxllm.data.sentence_pieces import SentencePieceTokenizer, SentencePieceTokenizerConfig
from jaxllm.data.tokenizer import (
    ByteTokenizerConfig,
    HuggingFaceTokenizer,
    HuggingFaceTokenizerConfig,
    load_tokenizer,
    token_dtype,
)

from .texts import AWKWARD, document


@pytest.fixture(scope="module")
def tokenizers(hf_json):
    """One of each kind, by name."""
    texts = [document(seed) for seed in range(8)]
    unigram = SentencePieceTokenizerConfig(vocab_size=320, algorithm="unigram")
    return {
        "byte": ByteTokenizerConfig().build(),
        "bpe": SentencePieceTokenizerConfig(vocab_size=400).build(texts),
        "unigram": unigram.build(texts),
        "hf": HuggingFaceTokenizerConfig(path=str(hf_json)).build(),
    }


KINDS = pytest.mark.parametrize("kind", ["byte", "bpe", "unigram", "hf"])


@KINDS
def test_every_string_comes_back_and_none_becomes_the_delimiter(tokenizers, kind):
    tokenizer = tokenizers[kind]
    for text in [*AWKWARD, document(99), "".join(AWKWARD)]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert ids.dtype == token_dtype(tokenizer.vocab_size)
        assert tokenizer.delimiter_id not in ids
        assert ids.max(initial=0) < tokenizer.vocab_size


@KINDS
def test_random_unicode_comes_back(tokenizers, kind):
    source = random.Random(0)
    for _ in range(50):
        points = [source.choice([0x20, 0x0A, 0x2581, source.randrange(0x11000)]) for _ in range(40)]
        text = "".join(chr(p) for p in points if not 0xD800 <= p < 0xE000)
        assert tokenizers[kind].decode(tokenizers[kind].encode(text)) == text


@KINDS
def test_a_saved_tokenizer_is_the_same(tokenizers, kind, tmp_path):
    tokenizer = tokenizers[kind]
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert (loaded.vocab_size, loaded.delimiter_id) == (
        tokenizer.vocab_size,
        tokenizer.delimiter_id,
    )
    np.testing.assert_array_equal(loaded.encode(document(7)), tokenizer.encode(document(7)))


@KINDS
def test_decoding_skips_delimiters_and_marks_cut_characters(tokenizers, kind):
    tokenizer = tokenizers[kind]
    ids = [tokenizer.delimiter_id, *tokenizer.encode("one"), tokenizer.delimiter_id]
    assert tokenizer.decode(ids) == "one"
    assert "\ufffd" in tokenizer.decode(tokenizer.encode("\u00e9\u4e2d")[:1])


@KINDS
def test_the_delimiter_ends_an_answer_where_nothing_else_is_said(tokenizers, kind, tmp_path):
    tokenizers[kind].save(tmp_path)
    for tokenizer in (tokenizers[kind], load_tokenizer(tmp_path)):
        assert tokenizer.stop_ids == (tokenizer.delimiter_id,)
        assert tokenizer.chat_template is None


def test_what_comes_with_a_tokenizer_is_saved_with_it(hf_json, tmp_path):
    files = {"tokenizer_config.json": b"{}", "additional_chat_templates/rag.jinja": b"\xff"}
    tokenizer = HuggingFaceTokenizer(
        hf_json.read_bytes(),
        delimiter="<|endoftext|>",
        name="x",
        stop_ids=[1, 0],
        special_tokens={"bos_token": "<|endoftext|>", "pad_token": "<pad>"},
        chat_templates={"default": "{{ bos_token }}\u00e9", "rag": "{{ pad_token }}"},
        originals=files,
    )
    for index in range(2):  # saved, then what was loaded saved again
        tokenizer.save(tmp_path / str(index))
        tokenizer = load_tokenizer(tmp_path / str(index))
        assert isinstance(tokenizer, HuggingFaceTokenizer)
        assert tokenizer.stop_ids == (1, 0)
        assert tokenizer.originals == files
        chat = [{"role": "user", "content": "Hi"}]
        assert tokenizer.chat_template.render(chat) == "<|endoftext|>\u00e9"
        assert tokenizer.chat_template.render(chat, template="rag") == "<pad>"
        for name, content in files.items():
            assert (tmp_path / str(index) / "original" / name).read_bytes() == content


def test_a_card_of_an_earlier_version_is_read(tokenizers, tmp_path):
    tokenizers["hf"].save(tmp_path)
    (tmp_path / "card.json").write_text('{"type": "hf", "delimiter": "<|endoftext|>"}')
    assert load_tokenizer(tmp_path).fingerprint == tokenizers["hf"].fingerprint
    assert load_tokenizer(tmp_path).stop_ids == (load_tokenizer(tmp_path).delimiter_id,)


def test_a_vocabulary_that_has_its_special_tokens_does_not_find_them_in_text():
    model = unigram("</s>")
    text = "a </s> b</s></s> <unk>"
    ids = model.encode(text)
    assert model.delimiter_id not in ids
    assert model.decode(ids) == text
    assert model.delimiter_id in model.encode_with_specials(text).ids
    with pytest.raises(ValueError, match=r"makes its delimiter 'b' of the text 'a b'"):
        unigram("b").encode("a b")


def unigram(special: str) -> HuggingFaceTokenizer:
    """A unigram model of characters and a special token."""
    import tokenizers

    pieces = [("<unk>", 0.0), (special, 0.0), *((c, -2.0) for c in "ab </s>unk" if c != special)]
    model = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=0))
    model.decoder = tokenizers.decoders.Fuse()
    model.add_special_tokens([special])
    return HuggingFaceTokenizer(model.to_str().encode(), delimiter=special, name="x")


def test_special_tokens_are_parsed_where_that_is_asked_for(tokenizers):
    hf = tokenizers["hf"]
    text = "one<|endoftext|>two<pad>"
    parsed = hf.encode_with_specials(text)
    expected = [*hf.encode("one"), 0, *hf.encode("two"), 1]
    assert parsed.ids.tolist() == expected
    assert parsed.ids.dtype == hf.encode(text).dtype
    assert hf.encode_with_specials(text, "").ids.tolist() == expected
    assert hf.encode_with_specials("a", "b").type_ids.tolist() == [0, 1]
    assert hf.decode(hf.encode(text)) == text


def test_the_word_cache_encodes_as_the_library_does(tokenizers):
    tokenizer = tokenizers["bpe"]
    assert tokenizer._words is not None
    source = random.Random(1)
    for _ in range(200):
        text = "".join(source.choice([" ", "  ", "\n", "the", "7", "\u00e9"]) for _ in range(60))
        np.testing.assert_array_equal(tokenizer.encode(text), tokenizer.encode_plain(text))


def test_a_model_whose_pieces_cross_words_is_not_cached():
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([document(seed) for seed in range(8)]),
        model_writer=model,
        model_type="bpe",
        vocab_size=800,
        split_by_whitespace=False,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        minloglevel=2,
    )
    tokenizer = SentencePieceTokenizer(model.getvalue(), name="model")
    assert tokenizer._words is None
    np.testing.assert_array_equal(
        tokenizer.encode(document(3)), tokenizer.encode_plain(document(3))
    )


def test_special_tokens_spelled_in_a_text_are_text(tokenizers):
    hf = tokenizers["hf"]
    assert len(hf.encode("<|endoftext|>")) > 1
    assert len(hf.encode("<pad>")) > 1
    assert len(tokenizers["bpe"].encode("<|document|>")) > 1


def test_special_tokens_in_a_text_are_the_ids_of_their_characters():
    import tokenizers

    pieces = ["<", "|", "e", ">", "<|", "|>"]
    model = tokenizers.Tokenizer(
        tokenizers.models.BPE({p: i for i, p in enumerate(pieces)}, [("<", "|"), ("|", ">")])
    )
    model.add_special_tokens(["<|e|>"])
    hf = HuggingFaceTokenizer(model.to_str().encode(), delimiter="<|e|>", name="x")
    assert hf.encode("<|e|>").tolist() == [pieces.index(p) for p in ("<|", "e", "|>")]


def test_training_is_reproducible_and_bounded_by_its_budget():
    texts = [document(seed) for seed in range(20)]
    whole = SentencePieceTokenizerConfig(vocab_size=400)
    assert whole.build(texts).fingerprint == whole.build(texts).fingerprint
    budget = sum(len(text) for text in texts[:7]) + 100
    sample = SentencePieceTokenizerConfig(vocab_size=400, training_bytes=budget).build(texts)
    assert sample.fingerprint == whole.build([*texts[:7], texts[7][:100]]).fingerprint
    assert sample.fingerprint != whole.build(texts).fingerprint


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"vocab_size": 60_000}, r"data\.tokenizer\.vocab_size"),
        ({"model_path": "/nowhere/x.model"}, r"data\.tokenizer\.model_path"),
    ],
)
def test_a_tokenizer_that_cannot_be_made_names_the_key(config, message):
    with pytest.raises(ValueError, match=message):
        SentencePieceTokenizerConfig(**config).build([document(0)])


def test_a_text_that_cannot_be_read_ends_the_training_with_its_own_error():
    def texts():
        yield document(0)
        raise ValueError("a.gz is truncated")

    with pytest.raises(ValueError, match=r"^a\.gz is truncated$"):
        SentencePieceTokenizerConfig(vocab_size=400).build(texts())


def test_training_and_loading_exclude_each_other():
    for both_or_none in ({}, {"vocab_size": 400, "model_path": "x.model"}):
        with pytest.raises(ValueError, match="either vocab_size"):
            SentencePieceTokenizerConfig(**both_or_none)


def test_a_file_that_is_no_model_is_refused(tmp_path, hf_json):
    model = tmp_path / "x.model"
    model.write_bytes(b"not a model")
    problem = f"^data.tokenizer.model_path: {model} is not a SentencePiece model$"
    with pytest.raises(ValueError, match=problem):
        SentencePieceTokenizerConfig(model_path=str(model)).build()
    with pytest.raises(ValueError, match=r"<pad>.*data\.tokenizer\.delimiter"):
        HuggingFaceTokenizerConfig(path=str(hf_json), delimiter="<|begin|>").build()
    for content in (b"{}", b"{", b"\xff"):
        (tmp_path / "tokenizer.json").write_bytes(content)
        problem = f"^data.tokenizer.path: {tmp_path}/tokenizer.json is not a Hugging Face tokenizer"
        with pytest.raises(ValueError, match=problem):
            HuggingFaceTokenizerConfig(path=str(tmp_path)).build()
    with pytest.raises(ValueError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)


def test_a_damaged_model_of_a_run_is_named(tokenizers, tmp_path):
    tokenizers["bpe"].save(tmp_path)
    (tmp_path / "sentencepiece.model").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=f"^{tmp_path}/sentencepiece.model is not a"):
        load_tokenizer(tmp_path)
