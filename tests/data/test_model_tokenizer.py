"""`data.tokenizer: {type: hf}` of a model's folder, of a run's tokenizer, and of a file."""

import shutil
from pathlib import Path

import pytest

from jaxllm.data.tokenizer import HuggingFaceTokenizerConfig, load_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden/hf_tokenizers"


def built(path, **options):
    return HuggingFaceTokenizerConfig(path=str(path), **options).build()


@pytest.mark.parametrize(
    ("kind", "delimiter", "other"),
    [
        ("llama_pieces", "<s>", "</s>"),
        ("llama3_ranks", "<|begin_of_text|>", "<|im_start|>"),
        ("clip_merges", "<|startoftext|>", "<|endoftext|>"),
        ("marian_pieces", "</s>", "<pad>"),
        ("json_bytelevel", "<|endoftext|>", "<|im_start|>"),
    ],
)
def test_a_folder_says_what_opens_a_document_and_a_config_may_say_another(
    kind, delimiter, other, tmp_path
):
    tokenizer = built(GOLDEN / kind)
    assert tokenizer.delimiter == delimiter
    changed = built(GOLDEN / kind, delimiter=other)
    assert changed.delimiter_id == tokenizer.special_id(other)
    assert changed.fingerprint != tokenizer.fingerprint
    ids = tokenizer.encode("a fox").tolist()
    assert changed.encode("a fox").tolist() == ids

    tokenizer.save(tmp_path)
    again = built(tmp_path)
    assert again.fingerprint == load_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint
    assert again.stop_ids == tokenizer.stop_ids
    assert again.originals == tokenizer.originals
    assert (again.chat_template is None) == (kind != "json_bytelevel")
    assert built(tmp_path, delimiter=other).fingerprint == changed.fingerprint
    with pytest.raises(ValueError, match=r"no special token '<other>'.*`data.tokenizer.delimiter`"):
        built(tmp_path, delimiter="<other>")


def test_what_cannot_be_read_names_the_key_and_the_way(tmp_path):
    with pytest.raises(ValueError, match=r"there is no tokenizer .*`data\.tokenizer\.path`"):
        built(tmp_path)
    (tmp_path / "tekken.json").write_text("{}")
    with pytest.raises(ValueError, match=r"^data\.tokenizer\.path: .* has tekken\.json, but none"):
        built(tmp_path)
    shutil.copy(GOLDEN / "llama_pieces/tokenizer.model", tmp_path)
    assert built(tmp_path).delimiter == "<s>"
    with pytest.raises(ValueError, match=r"tokenizer\.model is no tokenizer\.json; give the model"):
        built(tmp_path / "tokenizer.model")
    (tmp_path / "card.json").write_text('{"type": "byte"}')
    with pytest.raises(ValueError, match=r"^data\.tokenizer\.path: .* of the type 'byte'"):
        built(tmp_path)
