"""What lies beside the weights goes along with them."""

import json

import numpy as np
import pytest

from jaxllm.hf.companions import target_settings
from jaxllm.hf.model import load_model, save_model
from jaxllm.hf.tokenizer import find_tokenizer

from .converted import TINY, converted, keys, tiny, write
from .published import published

FILES = (
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "2_Dense/model.safetensors",
    "tokenizer_config.json",
    "generation_config.json",
)
# Not of the model, or written anew.
OTHERS = ("README.md", "onnx/config.json", "pytorch_model.bin")

TOKENIZER = "tokenizer.ggml."


def test_modules_of_sentence_embeddings_are_copied(tmp_path):
    folder = published("bert_pooler").write(tmp_path / "theirs")
    for name in (*FILES, *OTHERS):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f'{{"it is": "{name}"}}')
    save_model(load_model(folder), tmp_path / "ours")
    for name in FILES:
        assert (tmp_path / "ours" / name).read_bytes() == (folder / name).read_bytes()
    assert not any((tmp_path / "ours" / name).exists() for name in OTHERS)


def test_a_module_that_is_a_link_to_elsewhere_is_not_copied(tmp_path):
    folder = published("bert_pooler").write(tmp_path / "theirs")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "config.json").write_text("{}")
    (folder / "1_Pooling").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="outside of its folder"):
        save_model(load_model(folder), tmp_path / "ours")


@pytest.fixture
def metadata():
    """Of a file with 70 tokens in pieces, each of which is a text of its own."""
    tokens = ["<unk>", "<s>", "</s>", *(chr(ord("A") + index) for index in range(67))]
    return keys(TINY) | {
        f"{TOKENIZER}model": "llama",
        f"{TOKENIZER}tokens": tokens,
        f"{TOKENIZER}scores": np.arange(70, dtype=np.float32).tolist(),
        f"{TOKENIZER}token_type": [2, 3, 3, *[1] * 67],
        f"{TOKENIZER}bos_token_id": 1,
        f"{TOKENIZER}eos_token_id": 2,
        f"{TOKENIZER}eot_token_id": 3,
        f"{TOKENIZER}add_space_prefix": False,
        "tokenizer.chat_template": "{{ messages[0].content }}",
    }


def test_the_tokenizer_of_a_gguf_file_is_written(metadata, tmp_path):
    file, ours = tmp_path / "m.gguf", tmp_path / "ours"
    write(file, TINY, converted(tiny(), TINY), metadata=metadata)
    save_model(load_model(file), ours)
    before, after = (find_tokenizer(source, vocab_size=70) for source in (file, ours))
    assert after.encode_with_specials("ABBA").ids.tolist() == [1, 3, 4, 4, 3]
    assert before.encode_with_specials("ABBA").ids.tolist() == [1, 3, 4, 4, 3]
    assert after.chat_template.templates == before.chat_template.templates
    generation = json.loads((ours / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 1, "eos_token_id": [2, 3]}
    assert json.loads((ours / "config.json").read_text())["eos_token_id"] == 2


def test_a_gguf_file_without_a_tokenizer_is_saved_without(tmp_path):
    write(tmp_path / "m.gguf", TINY, converted(tiny(), TINY))
    save_model(load_model(tmp_path / "m.gguf"), tmp_path / "ours")
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_a_tokenizer_that_is_not_known_is_told_before_anything_is_written(metadata, tmp_path):
    metadata[f"{TOKENIZER}model"] = "rwkv"
    write(tmp_path / "m.gguf", TINY, converted(tiny(), TINY), metadata=metadata)
    model = load_model(tmp_path / "m.gguf")
    with pytest.raises(ValueError, match="'rwkv' is not known here"):
        save_model(model, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_an_encoder_decoder_says_how_its_targets_begin_and_end():
    """Without it transformers would begin them with the token that opens documents."""
    assert target_settings(published("marian").config) == {
        "decoder_start_token_id": 96,
        "pad_token_id": 96,
        "bad_words_ids": [[96]],
        "forced_eos_token_id": 0,
    }
    assert target_settings(published("t5").config) == {"decoder_start_token_id": 0}
    assert target_settings(published("bert_pooler").config) == {}
