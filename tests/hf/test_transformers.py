"""transformers itself, in an environment of its own: it opens what jaxllm writes.

`make test-hf` makes the environment and runs these.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from jaxllm.hf.label_names import label_keys
from jaxllm.hf.model import load_model, save_model, write_weights
from jaxllm.hf.registry import families

from .published import GOLDEN, grad_norms, names, published, read

ROOT = Path(__file__).parents[2]
TOKENIZERS = ROOT / "tests" / "golden" / "hf_tokenizers"
PYTHON = Path(os.environ.get("JAXLLM_HF_PYTHON", ROOT / ".venv-hf" / "bin" / "python"))

pytestmark = [
    pytest.mark.hf,
    pytest.mark.skipif(not PYTHON.exists(), reason="no environment with transformers"),
]


def script(name, *arguments):
    """Run a script in that environment; its output, which an assertion shows."""
    command = [str(PYTHON), str(ROOT / "scripts" / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", names())
def test_it_opens_what_is_saved_with_equal_bits(name, tmp_path):
    folder = published(name).write(tmp_path / "theirs")
    save_model(load_model(folder), tmp_path / "ours", max_shard_bytes=50_000)
    code, text = script("hf_roundtrip.py", tmp_path / "ours", "--same-as", folder)
    assert code == 0, text


def test_it_opens_an_exported_classifier_with_equal_logits(tmp_path):
    """Classes by their names, and the loss that they were trained with."""
    case = published("bert_sequence")
    model = load_model(case.write(tmp_path / "theirs"))
    names = ("law", "war", "peace", "trade")
    keys = label_keys(names, num_labels=4, problem_type="multi_label_classification")
    write_weights(tmp_path / "ours", model.config, model.params, family=case.family, extra=keys)
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    np.savez(tmp_path / "inputs.npz", **{name: case.reference[name] for name in inputs})
    code, text = script(
        "hf_roundtrip.py",
        *(tmp_path / "ours", "--inputs", tmp_path / "inputs.npz", "--dump", tmp_path / "dump"),
        *("--labels", "law,war,peace,trade", "--problem", "multi_label_classification"),
    )
    assert code == 0, text
    found = np.load(tmp_path / "dump" / "ours.npz")["logits"]
    assert np.abs(found - case.reference["logits"]).max() <= case.noise("logits")


def test_every_family_is_recorded():
    assert {read(name)["model_type"] for name in names()} == families().keys()


def test_what_is_recorded_is_what_it_computes(tmp_path):
    code, text = script("hf_reference.py", "--out", tmp_path)
    assert code == 0, text
    assert sorted(path.name for path in tmp_path.iterdir()) == names()
    for name in names():
        anew, case = dict(np.load(tmp_path / name / "reference.npz")), published(name)
        assert anew.keys() == case.reference.keys(), name
        for key, values in case.reference.items():
            # Float64 sums of another machine; what is kept of them is float32.
            if values.dtype.kind == "f" and not key.startswith("noise"):
                np.testing.assert_allclose(anew[key], values, rtol=1e-5, atol=1e-6, err_msg=name)
        for tensor, norm in grad_norms(case).items():
            again = json.loads(str(anew["grad_norms"]))[tensor]
            assert again == pytest.approx(norm, rel=1e-6, abs=1e-9), (name, tensor)
    assert GOLDEN.is_dir()


def test_what_is_recorded_of_tokenizers_is_what_they_give(tmp_path):
    code, text = script("hf_tokenizer_reference.py", "--out", tmp_path, "--files", TOKENIZERS)
    assert code == 0, text
    recorded = sorted(path.relative_to(TOKENIZERS) for path in TOKENIZERS.glob("*/reference.json"))
    recorded += [Path("texts.json"), Path("chat_templates.json"), Path("chat_tokens.json")]
    assert len(recorded) > 15
    for name in recorded:
        ours, theirs = (
            json.loads((folder / name).read_text()) for folder in (TOKENIZERS, tmp_path)
        )
        assert ours == theirs, name
    assert {path.name for path in tmp_path.iterdir()} == {p.name for p in TOKENIZERS.iterdir()}
