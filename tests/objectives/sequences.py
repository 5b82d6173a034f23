"""Objectives of whole texts, compared with what transformers recorded."""

import jax
import numpy as np

from jaxllm.nn.param import bind
from tests.hf.compared import check_gradients, check_loss


def check_it_is_theirs(objective, case):
    """Loss and gradients through the objective: a pair's types, padding and all."""
    reference = case.reference
    tokens = reference["input_ids"]
    given = {
        "tokens": tokens,
        "segment_ids": reference["attention_mask"],
        "positions": np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape),
        "label": reference["labels"],
        "loss_mask": np.ones(len(tokens), np.float32),
    }
    if "token_type_ids" in reference:
        given["token_types"] = reference["token_type_ids"]

    def loss(params):
        sums = objective(bind(case.module, params), given)
        return sums.loss / sums.num_tokens

    options = {"xla_backend_optimization_level": 0}
    found, gradients = jax.jit(jax.value_and_grad(loss), compiler_options=options)(case.load())
    check_loss(case, found)
    check_gradients(case, gradients)
