"""Greedy continuations for hf_reference.py, with the cache, one prompt at a time."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

STEPS = 16
MARGIN = 2e-3  # a choice closer than this could go either way in float32


def continuations(model: Any, lengths: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Prompts of the given lengths, padded with zeros, and what the model says after each.

    The prompts are the first whose choices are all clear.
    """
    for seed in range(100):
        random = np.random.default_rng(seed)
        prompts = [random.integers(4, model.config.vocab_size - 1, n) for n in lengths]
        with torch.no_grad():
            answers = [_continue(model, torch.from_numpy(p)[None]) for p in prompts]
        margin = min(gap for _, gap in answers)
        if margin > MARGIN:
            return {
                "greedy_prompts": padded(prompts),
                "greedy_prompt_lengths": np.array(lengths, np.int32),
                "greedy": np.array([tokens for tokens, _ in answers], np.int32),
                "greedy_margin": np.array(margin),
            }
    raise AssertionError("no prompts with clear continuations")


def _continue(model: Any, prompt: Tensor) -> tuple[list[int], float]:
    """The tokens, and by how much the best logit led at the closest choice."""
    inputs, name, tokens = {}, "input_ids", prompt
    if model.config.is_encoder_decoder:
        inputs = {"encoder_outputs": model.get_encoder()(input_ids=prompt)}
        name, tokens = "decoder_input_ids", torch.tensor([[model.config.decoder_start_token_id]])
    text, cache, margin = tokens, None, float("inf")
    for _ in range(STEPS):
        answer = model(**inputs, **{name: tokens}, past_key_values=cache, use_cache=True)
        cache = answer.past_key_values
        best, second = answer.logits[0, -1].topk(2).values.tolist()
        margin = min(margin, best - second)
        tokens = answer.logits[:, -1].argmax(-1, keepdim=True)
        text = torch.cat([text, tokens], dim=1)
    chosen = text[0, -STEPS:].tolist()
    again = model(**inputs, **{name: text}, use_cache=False).logits[0, -STEPS - 1 : -1].argmax(-1)
    assert again.tolist() == chosen, f"the cache changes the answer: {chosen} and {again}"
    return chosen, margin


def padded(prompts: list[np.ndarray]) -> np.ndarray:
    """Rows of ids, filled with zeros."""
    table = np.zeros((len(prompts), max(map(len, prompts))), np.int32)
    for row, prompt in zip(table, prompts, strict=True):
        row[: len(prompt)] = prompt
    return table
