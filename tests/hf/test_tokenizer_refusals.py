import base64
import json
import shutil
from pathlib import Path

import pytest

from jaxllm.data.tokenizer_tiktoken import read_ranks
from jaxllm.hf.tokenizer import find_tokenizer

from .tokenizer_folders import GOLDEN, change, copied, found


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path):
    folder = copied("json_bytelevel", tmp_path)
    assert found(folder, vocab_size=405).vocab_size == 405
    with pytest.raises(ValueError, match=r"has 405 tokens .* the model's embedding 404 rows"):
        found(folder, vocab_size=404)


def test_added_tokens_must_have_the_ids_that_the_folder_says(tmp_path):
    folder = copied("llama_pieces", tmp_path)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    known = settings["added_tokens_decoder"]
    change(folder / "tokenizer_config.json", added_tokens_decoder={**known, "470": known["462"]})
    problem = r"tokenizer_config\.json: added_tokens_decoder\.470 gives .* '<tool>' the id 470, but"
    with pytest.raises(ValueError, match=rf"{problem} .* it is 462"):
        found(folder)
    content = json.loads((folder / "tokenizer_config.json").read_text())
    del content["added_tokens_decoder"]
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    change(folder / "added_tokens.json", **{"<tool>": 470})
    with pytest.raises(ValueError, match=r"added_tokens\.json gives .* '<tool>' the id 470"):
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
        ("gpt2_merges", "BartTokenizer"),
    ],
)
def test_a_class_that_is_not_known_is_refused_by_name(kind, name, tmp_path):
    folder = copied(kind, tmp_path)
    change(folder / "tokenizer_config.json", tokenizer_class=f"{name}Fast")
    by = r"by .*/tokenizer_config\.json: tokenizer_class,"
    with pytest.raises(ValueError, match=rf"is of a {name}, {by} .*save it with transformers"):
        found(folder)


def test_the_model_may_name_the_class(tmp_path):
    folder = copied("gpt2_merges", tmp_path)
    change(folder / "config.json", tokenizer_class="BartTokenizer")
    with pytest.raises(ValueError, match=r"BartTokenizer, by .*/config\.json: tokenizer_class,"):
        found(folder)
    change(folder / "config.json", tokenizer_class=None, model_type="t5")
    with pytest.raises(ValueError, match=r"T5Tokenizer, by .*/config\.json: model_type,"):
        found(folder)


def test_no_file_outside_of_the_folder_is_read(tmp_path):
    folder, outside = copied("json_bytelevel", tmp_path), tmp_path / "outside.json"
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


def test_the_links_of_the_hub_cache_are_followed(tmp_path):
    source, snapshot = copied("bert_cased", tmp_path), tmp_path / "models--x/snapshots/0123"
    blobs = tmp_path / "models--x/blobs"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for index, path in enumerate(source.iterdir()):
        shutil.copy(path, blobs / str(index))
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(index))
    assert found(snapshot).fingerprint == found(source).fingerprint


def test_where_text_is_split_must_be_known(tmp_path):
    folder = copied("cl100k_ranks", tmp_path)
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


@pytest.mark.parametrize(
    ("file", "values", "problem"),
    [
        ("vocab.json", {"e": 4}, r"vocab\.json gives 'e' and '▁the' the same id 4"),
        ("vocab.json", {"e": -1}, r"vocab\.json gives 'e' the id -1"),
        ("tokenizer_config.json", {"unk_token": "<none>"}, r"has no '<none>', the unk_token"),
        ("tokenizer_config.json", {"eos_token": None}, "eos_token is null"),
        ("tokenizer_config.json", {"separate_vocabs": True}, "separate_vocabs is True; only False"),
        ("tokenizer_config.json", {"sp_model_kwargs": {"alpha": 1}}, "sp_model_kwargs is {'alpha'"),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"500": {"content": "e"}}},
            r"added_tokens_decoder\.500 gives .* 'e' the id 500, but with vocab\.json it is 3",
        ),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"7": {"content": "<new>"}}},
            r"'<new>' the id 7, but with vocab\.json another token is",
        ),
        (
            "tokenizer_config.json",
            {"pad_token": {"content": "<pad>", "lstrip": True}},
            "the token '<pad>' lstrip, which",
        ),
    ],
)
def test_what_would_change_the_ids_of_a_translation_is_refused(file, values, problem, tmp_path):
    folder = copied("marian_pieces", tmp_path)
    change(folder / file, **values)
    with pytest.raises(ValueError, match=problem):
        found(folder)


def test_a_translation_needs_its_three_files(tmp_path):
    for missing in ("source.spm", "target.spm", "vocab.json"):
        folder = copied("marian_pieces", tmp_path / missing)
        (folder / missing).write_bytes(b"damaged")
        with pytest.raises(ValueError, match=r"is not two SentencePiece|vocab\.json is not JSON"):
            found(folder)
        (folder / missing).unlink()
        with pytest.raises(ValueError, match=rf"a Marian's tokenizer, but not {missing}"):
            found(folder)
