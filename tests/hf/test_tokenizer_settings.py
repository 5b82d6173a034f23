"""Settings of a tokenizer that are of the wrong kind: one error that names the file and the key."""

import json

import pytest

from .tokenizer_folders import change, copied, found

HUGE = 10**30
SETTINGS, MAP, GENERATION = "tokenizer_config", "special_tokens_map", "generation_config"
HALF = "\ud800"  # of a character, as JSON can have it


@pytest.mark.parametrize(
    ("file", "key", "values"),
    [
        (GENERATION, "eos_token_id", [HUGE, [2, HUGE], -1, -7, "2", [[2]], True, 1.5, {}]),
        (GENERATION, "bos_token_id", [HUGE, -7, "2", [None]]),
        ("config", "eos_token_id", [HUGE, "2"]),
        (SETTINGS, "eos_token", [5, ["</s>"], {}, {"content": 5}, HALF]),
        (SETTINGS, "pad_token", [{"content": "a", "lstrip": "yes"}, {"content": HALF}]),
        (SETTINGS, "extra_special_tokens", [5, "abc", [5], [None], [HALF]]),
        (SETTINGS, "additional_special_tokens", [1.5, True, [["a"]]]),
        (SETTINGS, "add_bos_token", ["false", 1, {"content": "a"}]),
        (SETTINGS, "fast_tokenizer_files", [5, "tokenizer.json", [5], [HALF]]),
        (SETTINGS, "added_tokens_decoder", [{str(HUGE): "a"}, {"-1": "a"}, {"\u00b2": "a"}, []]),
        (SETTINGS, "added_tokens_decoder.1", [5, {"content": "a", "special": "no"}]),
        (MAP, "eos_token", [5, {"content": 5}, {"content": "a", "rstrip": 1}]),
        (MAP, "additional_special_tokens", [5, [5], "abc"]),
        ("added_tokens", "'<a>'", [HUGE, -1, "5", None, [], 1.5, True]),
    ],
)
def test_the_file_and_the_key_are_named(file, key, values, tmp_path):
    folder = copied("llama_pieces", tmp_path)
    if file in (MAP, "added_tokens"):  # they are read where no list has every token by its id
        content = json.loads((folder / f"{SETTINGS}.json").read_text())
        del content["added_tokens_decoder"]
        (folder / f"{SETTINGS}.json").write_text(json.dumps(content))
    name, _, number = key.strip("'").partition(".")
    for value in values:
        change(folder / f"{file}.json", **{name: {number: value} if number else value})
        with pytest.raises(
            ValueError, match=rf"{file}\.json.*{key.replace('.', '[.]')} is "
        ) as error:
            found(folder)
        assert not isinstance(error.value, UnicodeError)
        assert len(str(error.value)) < 400


def test_what_is_usual_is_read(tmp_path):
    folder = copied("llama_pieces", tmp_path)
    before = found(folder)
    change(folder / "generation_config.json", bos_token_id=-1, eos_token_id=None)
    change(folder / "tokenizer_config.json", extra_special_tokens={}, fast_tokenizer_files=None)
    assert found(folder).fingerprint == before.fingerprint
