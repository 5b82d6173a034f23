"""Tokenizers of model folders, against what transformers 5.23 and tiktoken give for the same ones.

The folders are made by scripts/hf_tokenizer_reference.py.
"""

import base64
import json
import random
import re
import shutil
from pathlib import Path

import pytest

from jaxllm.data.sentence_pieces import SentencePieceTokenizerConfig
from jaxllm.data.tokenizer import (
    ByteTokenizerConfig,
    HuggingFaceTokenizer,
    HuggingFaceTokenizerConfig,
    load_tokenizer,
)
from jaxllm.hf.tokenizer import find_tokenizer, write_tokenizer
from jaxllm.hf.tokenizer_tiktoken import FAMILIES, from_ranks, read_ranks

GOLDEN = Path(__file__).parents[1] / "golden/hf_tokenizers"
GIVEN = json.loads((GOLDEN / "texts.json").read_text())
TEXTS, PAIRS = GIVEN["texts"], GIVEN["pairs"]
KINDS = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())
SPLITS = {"cl100k_ranks": "cl100k", "o200k_ranks": "o200k"}

# Where transformers makes special tokens of text that is to be taken as text: unigram models match
# them in their vocabulary, and special_tokens_map.json no longer makes a token special.
MAKES_SPECIALS_OF_TEXT = ("t5_pieces", "xlm_roberta_pieces", "llama_legacy_pieces")

# kind -> delimiter, the tokens that end an answer
ENDS = {
    "bert_cased": ("[CLS]", ["[CLS]"]),
    "bert_uncased": ("[CLS]", ["[CLS]"]),
    "cl100k_ranks": ("<|endoftext|>", ["<|endoftext|>"]),
    "gemma_pieces": ("<bos>", ["<eos>"]),
    "gpt2_merges": ("<|endoftext|>", ["<|endoftext|>"]),
    "json_bytelevel": ("<|endoftext|>", ["<|im_end|>", "<|endoftext|>"]),
    "llama3_ranks": ("<|begin_of_text|>", ["<|end_of_text|>"]),
    "llama_legacy_pieces": ("<s>", ["</s>"]),
    "llama_pieces": ("<s>", ["</s>"]),
    "o200k_ranks": ("<|endoftext|>", ["<|endoftext|>"]),
    "qwen2_merges": ("<|endoftext|>", ["<|im_end|>"]),
    "qwen_ranks": ("<|endoftext|>", ["<|endoftext|>"]),
    "roberta_merges": ("<s>", ["</s>"]),
    "t5_pieces": ("</s>", ["</s>"]),
    "xlm_roberta_pieces": ("<s>", ["</s>"]),
}


def found(folder: Path, **options) -> HuggingFaceTokenizer:
    given = {"vocab_size": None, "split": SPLITS.get(folder.name), **options}
    tokenizer = find_tokenizer(folder, **given)
    assert tokenizer is not None
    return tokenizer


@pytest.fixture(scope="module")
def tokenizers():
    return {kind: found(GOLDEN / kind) for kind in KINDS}


@pytest.fixture
def copy(tmp_path):
    """A copy of one of the folders, to be changed."""

    def make(kind: str) -> Path:
        return Path(shutil.copytree(GOLDEN / kind, tmp_path / kind))

    return make


def change(path: Path, **values) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **values}))


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


def test_a_document_is_opened_by_what_begins_it_or_ends_another(copy):
    folder = copy("qwen2_merges")
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


def test_a_token_with_a_role_is_special(copy):
    folder = copy("json_bytelevel")
    assert found(folder).special_id("<tool>") is None
    change(folder / "tokenizer_config.json", mask_token="<tool>")
    assert found(folder).special_id("<tool>") == 403


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_one_is_the_same_and_is_written_back_byte_for_byte(tokenizers, kind, tmp_path):
    tokenizers[kind].save(tmp_path / "run")
    loaded = load_tokenizer(tmp_path / "run")
    assert isinstance(loaded, HuggingFaceTokenizer)
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


def test_a_tokenizer_json_without_additions_is_kept_as_it_is(copy):
    folder = copy("gpt2_merges")
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


def test_chat_templates_in_files_come_before_the_settings(copy):
    folder = copy("json_bytelevel")
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


def test_what_ends_an_answer_is_looked_for_in_three_places(copy):
    folder = copy("json_bytelevel")
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


def test_a_tokenizer_larger_than_the_embedding_is_refused(copy):
    folder = copy("json_bytelevel")
    assert found(folder, vocab_size=405).vocab_size == 405
    with pytest.raises(ValueError, match=r"has 405 tokens .* the model's embedding 404 rows"):
        found(folder, vocab_size=404)


def test_added_tokens_must_have_the_ids_that_the_folder_says(copy):
    folder = copy("llama_pieces")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    known = settings["added_tokens_decoder"]
    change(folder / "tokenizer_config.json", added_tokens_decoder={**known, "470": known["462"]})
    with pytest.raises(ValueError, match=r"'<tool>' the id 470, but .* it is 462"):
        found(folder)


def test_a_folder_without_a_tokenizer_has_none(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert find_tokenizer(tmp_path, vocab_size=None) is None
    with pytest.raises(ValueError, match="is no folder"):
        find_tokenizer(tmp_path / "config.json", vocab_size=None)


UNNUMBERED = '{"added_tokens_decoder": {"x": "y"}}'
DAMAGED = '{"added_tokens_decoder": ["a"]}'


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"tokenizer_config.json": '{"auto_map": {"AutoTokenizer": ["a.B", null]}}'}, "never run"),
        ({"tokenizer_config.json": "{}"}, r"tokenizer_config\.json, but none of tokenizer\.json"),
        ({"spm.model": "x"}, r"has spm\.model, but none of"),
        ({"vocab.txt": "a", "tokenizer_config.json": DAMAGED}, r"added_tokens_decoder is \['a'\]"),
        ({"vocab.txt": "a", "tokenizer_config.json": UNNUMBERED}, r"is \{'x': 'y'\}, not tokens"),
        ({"tekken.json": "{}"}, r"has tekken\.json, but none of"),
        ({"tokenizer.pkl": "x", "tokenization_x.py": "x"}, r"has tokenizer\.pkl, tokenization_x"),
        ({"tokenizer.json": "{}"}, r"tokenizer\.json is not a Hugging Face tokenizer\.json"),
        ({"tokenizer_config.json": "{", "vocab.txt": "a"}, r"tokenizer_config\.json is not JSON"),
        ({"tokenizer_config.json": "[]"}, r"tokenizer_config\.json is a list, not an object"),
        ({"tokenizer.model": "nonsense"}, "neither a SentencePiece model nor a tiktoken one"),
        ({"vocab.json": "{}", "merges.txt": "a b\n"}, "merges.txt does not fit to vocab.json"),
        ({"vocab.json": "{}", "merges.txt": "a b c\n"}, r"\['a', 'b', 'c'\] are not two tokens"),
        (
            {"vocab.txt": "[UNK]\na\n", "tokenizer_config.json": '{"cls_token": null}'},
            "gives no cls_token",
        ),
    ],
)
def test_what_is_not_known_or_damaged_is_refused(files, problem, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=problem):
        find_tokenizer(tmp_path, vocab_size=None)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("llama_pieces", "CamembertTokenizer"),
        ("bert_uncased", "BertJapaneseTokenizer"),
        ("gpt2_merges", "CLIPTokenizer"),
    ],
)
def test_a_class_that_is_not_known_is_refused_by_name(copy, kind, name):
    folder = copy(kind)
    change(folder / "tokenizer_config.json", tokenizer_class=f"{name}Fast")
    with pytest.raises(ValueError, match=rf"is of a {name}, .*save it with transformers"):
        found(folder)


def test_no_file_outside_of_the_folder_is_read(copy, tmp_path):
    folder, outside = copy("json_bytelevel"), tmp_path / "outside.json"
    outside.write_bytes((folder / "tokenizer.json").read_bytes())
    for name in ("../outside.json", str(outside), "../nothing.json"):
        change(folder / "tokenizer_config.json", fast_tokenizer_files=["tokenizer.json", name])
        with pytest.raises(ValueError, match=r"outside of its folder|not inside of it"):
            found(folder)
    change(folder / "tokenizer_config.json", fast_tokenizer_files=["tokenizer.4.0.0.json"])
    (folder / "tokenizer.json").rename(folder / "tokenizer.4.0.0.json")
    assert found(folder).vocab_size == 405
    (folder / "tokenizer.4.0.0.json").unlink()
    (folder / "tokenizer.json").symlink_to(outside)
    with pytest.raises(ValueError, match=r"leads to .*outside\.json, outside of its folder"):
        found(folder)


def test_the_links_of_the_hub_cache_are_followed(copy, tmp_path):
    source, snapshot = copy("bert_cased"), tmp_path / "models--x/snapshots/0123"
    blobs = tmp_path / "models--x/blobs"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for index, path in enumerate(source.iterdir()):
        shutil.copy(path, blobs / str(index))
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(index))
    assert found(snapshot).fingerprint == found(source).fingerprint


def test_where_text_is_split_must_be_known(copy):
    folder = copy("cl100k_ranks")
    with pytest.raises(ValueError, match=r"model_type None; give `split`, one of llama3, qwen2"):
        found(folder, split=None)
    with pytest.raises(ValueError, match="split is 'gpt5'; give"):
        found(folder, split="gpt5")
    change(folder / "config.json", model_type="kimi")
    with pytest.raises(ValueError, match="model_type 'kimi'"):
        found(folder, split=None)
    change(folder / "config.json", model_type="dbrx")
    expected = found(GOLDEN / "cl100k_ranks").fingerprint
    assert found(folder, split=None).fingerprint == expected
    (folder / "config.json").unlink()
    (folder / "tokenizer.tiktoken").rename(folder / "cl100k_base.tiktoken")
    assert found(folder, split=None).fingerprint == expected


def test_a_piece_that_is_a_token_needs_no_merges():
    ranks = {**{bytes([b]): b for b in range(256)}, b"abc": 256}
    tokenizer = from_ranks(ranks, FAMILIES["llama3"], specials=())
    assert tokenizer.encode("abc").ids == [256]
    assert tokenizer.encode("abcd").ids == list(b"abcd")


def test_ranks_that_are_damaged_are_refused():
    lines = [f"{base64.b64encode(bytes([b])).decode()} {b}\n" for b in range(256)]
    assert len(read_ranks("".join(lines).encode(), name="x")) == 256
    for wrong, problem in (
        ([*lines, "IQ== 256\n"], "x, line 257: .* is not a new token"),
        ([*lines, "%%%% 256\n"], "x, line 257"),
        ([*lines, "YWI=\n"], "x, line 257"),
        ([*lines, "YWI= 300\n"], "the ranks are not 0 to 256"),
        ([*lines[:65], *lines[66:], "YWI= 65\n"], r"no token for the bytes \[65\]"),
    ):
        with pytest.raises(ValueError, match=problem):
            read_ranks("".join(wrong).encode(), name="x")


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


def test_a_tokenizer_json_of_a_config_is_written_with_its_delimiter(copy, tmp_path):
    folder = copy("json_bytelevel")
    tokenizer = HuggingFaceTokenizerConfig(path=str(folder)).build()
    write_tokenizer(tokenizer, tmp_path / "export")
    content = (tmp_path / "export/tokenizer.json").read_bytes()
    assert content == (folder / "tokenizer.json").read_bytes()
    opened = found(tmp_path / "export")
    assert opened.special_tokens["eos_token"] == opened.special_tokens["bos_token"]
    assert opened.delimiter_id == tokenizer.delimiter_id
