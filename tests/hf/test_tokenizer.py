"""Tokenizers of model folders, against what transformers 5.23 and tiktoken give for the same."""

import json
import random
import re
import shutil

import pytest

from jaxllm.data.tokenizer import load_tokenizer
from jaxllm.data.tokenizer_tiktoken import FAMILIES, from_ranks
from jaxllm.hf.tokenizer import write_tokenizer

from .tokenizer_folders import GOLDEN, KINDS, PAIRS, TEXTS, change, copied, found

# Where transformers makes special tokens of text that is to be taken as text: unigram models match
# them in their vocabulary, and special_tokens_map.json no longer makes a token special.
MAKES_SPECIALS_OF_TEXT = ("t5_pieces", "xlm_roberta_pieces", "llama_legacy_pieces")

# kind -> delimiter, the tokens that end an answer
ENDS = {
    "bert_cased": ("[CLS]", ["[CLS]"]),
    "bert_uncased": ("[CLS]", ["[CLS]"]),
    "clip_merges": ("<|startoftext|>", ["<|endoftext|>"]),
    "cl100k_ranks": ("<|endoftext|>", ["<|endoftext|>"]),
    "gemma_pieces": ("<bos>", ["<eos>"]),
    "gpt2_merges": ("<|endoftext|>", ["<|endoftext|>"]),
    "json_bytelevel": ("<|endoftext|>", ["<|im_end|>", "<|endoftext|>"]),
    "llama3_ranks": ("<|begin_of_text|>", ["<|end_of_text|>"]),
    "llama_legacy_pieces": ("<s>", ["</s>"]),
    "llama_pieces": ("<s>", ["</s>"]),
    "marian_pieces": ("</s>", ["</s>"]),
    "o200k_ranks": ("<|endoftext|>", ["<|endoftext|>"]),
    "qwen2_merges": ("<|endoftext|>", ["<|im_end|>"]),
    "qwen_ranks": ("<|endoftext|>", ["<|endoftext|>"]),
    "roberta_merges": ("<s>", ["</s>"]),
    "t5_pieces": ("</s>", ["</s>"]),
    "xlm_roberta_pieces": ("<s>", ["</s>"]),
}


@pytest.fixture(scope="module")
def tokenizers():
    return {kind: found(GOLDEN / kind) for kind in KINDS}


def test_sentinels_of_t5_count_down_from_the_last_id(tokenizers):
    """As transformers has them: <extra_id_0> is the last."""
    assert tokenizers["t5_pieces"].kinds().sentinel_ids == tuple(range(239, 139, -1))
    assert tokenizers["t5_pieces"].special_id("<extra_id_0>") == 239
    assert not tokenizers["bert_cased"].kinds().sentinel_ids


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_the_reference(tokenizers, kind):
    reference = json.loads((GOLDEN / kind / "reference.json").read_text())
    tokenizer = tokenizers[kind]
    for index, text in enumerate(TEXTS):
        plain = tokenizer.encode_with_specials(text, add=False)
        assert plain.ids.tolist() == reference["plain"][index], text
        if "special" in reference:
            special = tokenizer.encode_with_specials(text)
            assert special.ids.tolist() == reference["special"][index], text
            assert not special.type_ids.any()
    for (text, pair), (ids, type_ids) in zip(PAIRS, reference.get("pairs", []), strict=False):
        encoded = tokenizer.encode_with_specials(text, pair)
        assert encoded.ids.tolist() == ids, (text, pair)
        assert encoded.type_ids.tolist() == type_ids, (text, pair)
    for role, id_ in reference.get("ids", {}).items():
        assert tokenizer.special_id(tokenizer.special_tokens[role]) == id_, role


def test_a_translation_has_two_sides_and_a_language_before_its_text(tokenizers):
    reference = json.loads((GOLDEN / "marian_pieces/reference.json").read_text())
    tokenizer = tokenizers["marian_pieces"]
    for text, ids in zip(TEXTS, reference["target"], strict=True):
        assert tokenizer.target.encode_with_specials(text).ids.tolist() == ids, text
    for text, ids in reference["languages"]:
        assert tokenizer.encode_with_specials(text).ids.tolist() == ids, text


def test_the_spelling_of_a_special_token_of_clip_is_cut_off(tokenizers):
    tokenizer = tokenizers["clip_merges"]
    for name in ("<|startoftext|>", "<|endoftext|>"):
        apart = tokenizer.encode(f"{name} !").tolist()
        assert tokenizer.encode(f"{name}!").tolist() == apart
        assert apart[-1] == tokenizer.encode("!").tolist()[0]


def test_tokens_that_a_translation_adds(tmp_path):
    run = "\u4e2d\u6587\u5b57\u7b26\u662f\u4e2d\u6587"  # in vocab.json, of unknown letters
    folder = copied("marian_pieces", tmp_path)
    assert found(folder).encode(run).tolist() == [2, 136]
    change(folder / "tokenizer_config.json", additional_special_tokens=[run, "<new>"])
    tokenizer = found(folder, vocab_size=140)
    assert tokenizer.encode(run).tolist() == [2, 1]
    assert tokenizer.encode_with_specials(f"{run}<new>").ids.tolist() == [136, 139, 0]
    assert tokenizer.decode([134, 23, 139, 0, 55]) == ">>fra<< fo<new> x"
    with pytest.raises(ValueError, match=r"has 140 tokens .* embedding 139 rows"):
        found(folder, vocab_size=139)
    with pytest.raises(ValueError, match="has no token 140"):
        tokenizer.decode([140])


@pytest.mark.parametrize("kind", KINDS)
def test_text_is_text_whatever_it_spells(tokenizers, kind):
    reference = json.loads((GOLDEN / kind / "reference.json").read_text())
    tokenizer = tokenizers[kind]
    specials = {tokenizer.special_id(token) for token in [*ENDS[kind][1], tokenizer.delimiter]}
    for text, expected, decoded in zip(TEXTS, reference["text"], reference["decoded"], strict=True):
        ids = tokenizer.encode(text).tolist()
        assert not specials.intersection(ids), text
        if kind not in MAKES_SPECIALS_OF_TEXT or not re.search(r"<s>|<\|im", text):
            assert ids == expected, text
            assert tokenizer.decode(ids) == decoded


@pytest.mark.parametrize("kind", KINDS)
def test_what_opens_a_document_and_what_ends_an_answer(tokenizers, kind):
    tokenizer, (delimiter, stops) = tokenizers[kind], ENDS[kind]
    assert tokenizer.delimiter == delimiter
    assert tokenizer.delimiter_id == tokenizer.special_id(delimiter)
    assert tokenizer.stop_ids == tuple(tokenizer.special_id(token) for token in stops)


def test_a_document_is_opened_by_what_begins_it_or_ends_another(tmp_path):
    folder = copied("qwen2_merges", tmp_path)
    change(folder / "config.json", bos_token_id=401)
    assert found(folder).delimiter == "<|im_start|>"
    change(folder / "config.json", bos_token_id=None)
    assert found(folder).delimiter == "<|endoftext|>"
    change(folder / "tokenizer_config.json", bos_token="<|im_end|>")
    assert found(folder).delimiter == "<|im_end|>"
    nothing = {"bos_token": None, "eos_token": None, "pad_token": None, "unk_token": None}
    change(folder / "tokenizer_config.json", **nothing, added_tokens_decoder={})
    with pytest.raises(ValueError, match="names no special token that could open a document"):
        found(folder)


def test_a_token_with_a_role_is_special(tmp_path):
    folder = copied("json_bytelevel", tmp_path)
    assert found(folder).special_id("<tool>") is None
    change(folder / "tokenizer_config.json", mask_token="<tool>")
    assert found(folder).special_id("<tool>") == 403


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_one_is_the_same_and_is_written_back_byte_for_byte(tokenizers, kind, tmp_path):
    tokenizers[kind].save(tmp_path / "run")
    loaded = load_tokenizer(tmp_path / "run")
    assert type(loaded) is type(tokenizers[kind])
    assert loaded.fingerprint == tokenizers[kind].fingerprint
    assert loaded.stop_ids == tokenizers[kind].stop_ids
    assert loaded.special_tokens == tokenizers[kind].special_tokens
    assert (loaded.chat_template is None) == (kind != "json_bytelevel")
    for text in TEXTS:
        ids = tokenizers[kind].encode_with_specials(text).ids
        assert loaded.encode_with_specials(text).ids.tolist() == ids.tolist()
    write_tokenizer(loaded, tmp_path / "export")
    model_files = {"config.json", "generation_config.json", "reference.json"}
    expected = {path.name for path in (GOLDEN / kind).iterdir()} - model_files
    assert {path.name for path in (tmp_path / "export").iterdir()} == expected
    for name in expected:
        assert (tmp_path / "export" / name).read_bytes() == (GOLDEN / kind / name).read_bytes()


def test_a_tokenizer_json_without_additions_is_kept_as_it_is(tmp_path):
    folder = copied("gpt2_merges", tmp_path)
    written = json.dumps(json.loads(found(folder).model), indent=3)
    (folder / "tokenizer.json").write_text(written)
    (folder / "vocab.json").unlink()
    assert found(folder).model == (folder / "tokenizer.json").read_bytes()
    assert found(folder).delimiter == "<|endoftext|>"


@pytest.mark.parametrize(
    "kind", ["gemma_pieces", "llama_pieces", "t5_pieces", "xlm_roberta_pieces"]
)
def test_a_bare_sentencepiece_model_encodes_as_its_library(kind, tmp_path):
    import sentencepiece

    (file,) = (GOLDEN / kind).glob("*.model")
    shutil.copy(file, tmp_path)
    tokenizer = found(tmp_path)
    library = sentencepiece.SentencePieceProcessor(model_proto=file.read_bytes())
    source = random.Random(0)
    words = [" ", "  ", "\n", "the", " of", "aaaa", "7", "\u00e9", "<0x41>", "quick", "\U0001f600"]
    texts = ["".join(source.choices(words, k=40)) for _ in range(100)]
    plain = [text for text in TEXTS if "<s>" not in text and "\u2581" not in text]
    for text in [*texts, *plain]:
        assert tokenizer.encode(text).tolist() == library.encode(text), text


def test_chat_templates_in_files_come_before_the_settings(tmp_path):
    folder = copied("json_bytelevel", tmp_path)
    assert found(folder).chat_template.render([{"content": "Hi"}]) == "<|endoftext|>Hi"
    listed = [{"name": "default", "template": "{{ eos_token }}"}, {"name": "rag", "template": "r"}]
    change(folder / "tokenizer_config.json", chat_template=listed)
    assert found(folder).chat_template.templates == {"default": "{{ eos_token }}", "rag": "r"}
    assert found(folder).chat_template.render([{"content": "Hi"}]) == "<|im_end|>"
    (folder / "chat_template.jinja").write_text("file {{ bos_token }}")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    expected = {"default": "file {{ bos_token }}", "tool_use": "tools"}
    assert found(folder).chat_template.templates == expected
    found(folder).save(folder / "run")
    write_tokenizer(load_tokenizer(folder / "run"), folder / "export")
    assert (folder / "export/additional_chat_templates/tool_use.jinja").read_text() == "tools"
    assert found(folder / "export").chat_template.templates == expected
    change(folder / "tokenizer_config.json", chat_template=3)
    (folder / "chat_template.jinja").unlink()
    shutil.rmtree(folder / "additional_chat_templates")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: chat_template is '3'"):
        found(folder)


def test_what_ends_an_answer_is_looked_for_in_three_places(tmp_path):
    folder = copied("json_bytelevel", tmp_path)
    change(folder / "config.json", text_config={"eos_token_id": 401})
    change(folder / "generation_config.json", eos_token_id=[402, 402, 401])
    assert found(folder).stop_ids == (402, 401)
    change(folder / "generation_config.json", eos_token_id=None)
    assert found(folder).stop_ids == (401,)
    (folder / "config.json").unlink()
    assert found(folder).stop_ids == (402,)
    for wrong in (999, "x"):
        change(folder / "generation_config.json", eos_token_id=wrong)
        with pytest.raises(ValueError, match=r"generation_config\.json: eos_token_id"):
            found(folder)


def test_a_piece_that_is_a_token_needs_no_merges():
    ranks = {**{bytes([b]): b for b in range(256)}, b"abc": 256}
    tokenizer = from_ranks(ranks, FAMILIES["llama3"], specials=())
    assert tokenizer.encode("abc").ids == [256]
    assert tokenizer.encode("abcd").ids == list(b"abcd")
