"""A run on conversations as transformers has it: equal logits, the same ids of a conversation."""

import json
import shutil
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from jaxllm.commands.export import export_model
from jaxllm.commands.prompts import question
from jaxllm.commands.run_folder import open_model
from jaxllm.commands.train import train
from jaxllm.config import load_config
from jaxllm.hf.model import write_weights
from jaxllm.hf.tokenizer import find_tokenizer
from jaxllm.nn.param import bind, param_dict

from .test_transformers import PYTHON, TOKENIZERS

pytestmark = [
    pytest.mark.hf,
    pytest.mark.skipif(not PYTHON.exists(), reason="no environment with transformers"),
]

ASK = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, text = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
chat = [{"role": "user", "content": text}]
ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
with torch.no_grad():
    logits = model(torch.tensor([ids])).logits[0]
print(json.dumps({"ids": ids, "logits": logits.tolist()}))
"""


@pytest.mark.parametrize("is_given", [True, False], ids=["a given template", "its own template"])
def test_merged_it_answers_there_as_here(is_given, tmp_path):
    base, template = tmp_path / "base", tmp_path / "given.jinja"
    shutil.copytree(TOKENIZERS / "json_bytelevel", base)
    shapes = json.loads((TOKENIZERS / "chat_templates.json").read_text())["templates"]
    (base / "chat_template.jinja").write_text(shapes["chatml"])
    template.write_text(shapes["bars"])
    tokenizer = find_tokenizer(base, vocab_size=None)
    model = tiny.config(vocab_size=tokenizer.vocab_size, num_layers=1, max_length=160)
    write_weights(base, model, param_dict(model.build(jax.random.key(0), tokenizer.vocab_size)))
    lines = [{"prompt": f"Number {i}?", "completion": f"It is {i}."} for i in range(30)]
    source = tmp_path / "numbers.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    raw = {
        "run_dir": str(tmp_path / "run"),
        "init_from": {"type": "hf", "path": str(base)},
        "adapter": {"type": "lora", "rank": 2, "targets": ["*.attention", "*.mlp"]},
        "data": {
            "sequence_length": 128,
            "global_batch_size": 8,
            "root": str(tmp_path / "root"),
            "tokenizer": {"type": "hf", "path": str(base), "chat_template": str(template)},
            "datasets": {
                "numbers": {"type": "chats", "source": {"type": "jsonl", "paths": [str(source)]}}
            },
        },
        "optim": {"type": "adamw", "learning_rate": 0.01, "schedule": {"type": "constant"}},
        "training": {"steps": 3},
        "samples": {"sampling": {"max_tokens": 2}},
    }
    if not is_given:
        del raw["data"]["tokenizer"]
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(raw))
    assert train(load_config(config, [])) == 0
    export_model(tmp_path / "run", tmp_path / "out", step=None, dtype="float32")
    command = [str(PYTHON), "-c", ASK, str(tmp_path / "out"), "Number 3?"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.splitlines()[-1])
    trained = open_model(Path(raw["run_dir"]))
    ids = question(trained.tokenizer, "Number 3?")
    assert ids == theirs["ids"]
    assert ("<|user|>" in trained.tokenizer.decode(np.asarray(ids))) == is_given
    logits = tiny.fast(lambda params: bind(trained.parts.model, params)(np.asarray([ids])))
    # Merged weights, and the sums of another library, of logits up to about 4.
    np.testing.assert_allclose(logits(trained.params)[0], theirs["logits"], rtol=0, atol=5e-5)
