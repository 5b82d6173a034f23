"""Targets are written as the model's facts have it: what is never written, and what ends them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.data.tokenizer import ByteTokenizer
from jaxllm.data.translations import TranslationsConfig
from jaxllm.generation import BeamSearch
from jaxllm.models.encoder_decoder_config import EncoderDecoderConfig
from jaxllm.nn.param import spec_dict
from jaxllm.objectives import Seq2Seq
from jaxllm.parallel.mesh import ParallelConfig
from jaxllm.tasks.translations import Translations

PADDING, END, LENGTH = 5, ByteTokenizer.delimiter_id, 4
SIZES = {"num_layers": 1, "embed_dim": 16, "num_heads": 2, "mlp_dim": 16, "num_buckets": 4}


def task(**facts):
    config = EncoderDecoderConfig.model_validate(SIZES | {"max_distance": 5} | facts)
    source = {"type": "jsonl", "paths": ["a.jsonl"]}
    return Translations(
        Seq2Seq(),
        jax.eval_shape(lambda: config.build(jax.random.key(0), END + 1)),
        dataset=TranslationsConfig.model_validate({"source": source}),
        tokenizer=ByteTokenizer(),
        layout=ParallelConfig(layout="replicated").build(jax.devices()[:1]),
        rows=2,
        length=LENGTH,
        search=BeamSearch(num_beams=2),
    )


def weights(doing):
    """Weights that make padding the likeliest byte, and the end an unlikely one."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda spec: jnp.asarray(rng.normal(size=spec.shape), jnp.float32), spec_dict(doing.model)
    )
    kernel = params["out"]["kernel"]
    params["out"]["kernel"] = kernel.at[:, PADDING].set(9 * kernel[:, 7]).at[:, END].set(0.0)
    return params


def written(doing, params):
    tokens = np.array([[1, 2, 3, END], [9, END, 0, 0]], np.int32)
    batch = {"encoder_tokens": tokens, "encoder_mask": (tokens > 0).astype(np.float32)}
    return doing.begin(params, batch)


def test_padding_is_never_written_and_the_longest_targets_end():
    """As transformers has it for a Marian, by what its config.json says alone."""
    free, bound = task(), task(padding_id=PADDING, forced_end_id=END)
    params = weights(free)
    of_free = [one.ids for found in written(free, params) for one in found]
    of_bound = [one.ids for found in written(bound, params) for one in found]
    assert any(PADDING in ids for ids in of_free)
    assert not any(PADDING in ids for ids in of_bound)
    assert max(map(len, of_free)) == LENGTH
    assert max(map(len, of_bound)) == LENGTH - 1  # the last one is the end
    # Logits that are no numbers are no target, and no score either.
    broken = jax.tree.map(lambda leaf: leaf * np.nan, params)
    outputs = bound.outputs(written(bound, broken))
    assert outputs["text"].tolist() == ["", ""]
    assert np.isnan(outputs["score"]).all()


def test_an_end_that_the_tokenizer_would_write_as_text_is_refused():
    with pytest.raises(ValueError, match=r"model\.forced_end_id=7 is no token that ends .* of 256"):
        task(forced_end_id=7)
