"""What the models of hf_reference.py are asked: a batch for each kind, its outputs and its loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Batch = dict[str, Tensor]
Answer = tuple[Tensor, dict[str, Tensor]]
LENGTHS = (24, 17, 9)
TARGET_LENGTHS = (15, 11, 6)
FIRST_WORD = 4  # smaller tokens may be special: padding, mask, beginning, end
MASK_TOKEN = 3
# Of a batch, read by the loss alone.
TARGETS = ("labels", "next_sentence_label", "start_positions", "end_positions")
# What the heads of an encoder give.
LOGITS = (
    "logits",
    "start_logits",
    "end_logits",
    "prediction_logits",
    "seq_relationship_logits",
)
IGNORED = -100  # the label that no loss of torch or transformers counts


@dataclass(frozen=True)
class Task:
    """How a kind of model is run; run returns the loss and the outputs worth recording."""

    make_batch: Callable[[Any], Batch]
    run: Callable[[Any, Batch], Answer]


def texts(config: Any, lengths: tuple[int, ...] = LENGTHS, seed: int = 1) -> Batch:
    """Rows of random words of the given lengths, padded on the right."""
    random = np.random.default_rng(seed)
    mask = np.arange(max(lengths))[None] < np.array(lengths)[:, None]
    # The last token of a vocabulary may be special too: Marian's padding.
    words = random.integers(FIRST_WORD, config.vocab_size - 1, mask.shape)
    tokens = np.where(mask, words, config.pad_token_id or 0)
    return {
        "input_ids": torch.from_numpy(tokens),
        "attention_mask": torch.from_numpy(mask.astype(np.int64)),
    }


def encoder_texts(config: Any, lengths: tuple[int, ...] = LENGTHS) -> Batch:
    """Texts, and for a model that tells two types apart, the second half of each as the second."""
    batch = texts(config, lengths)
    if config.type_vocab_size > 1:
        halves = torch.tensor(lengths)[:, None] // 2
        is_second = torch.arange(max(lengths))[None] >= halves
        batch["token_type_ids"] = is_second.long() * batch["attention_mask"]
    return batch


def labels(shape: tuple[int, ...], num_labels: int, seed: int = 2) -> Tensor:
    """Random classes."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, num_labels, shape))


def masked_texts(config: Any) -> Batch:
    """Every fourth token is hidden, and the label is what it was."""
    batch = encoder_texts(config)
    is_hidden = (torch.arange(max(LENGTHS)) % 4 == 2) & (batch["attention_mask"] == 1)
    batch["labels"] = batch["input_ids"].masked_fill(~is_hidden, IGNORED)
    batch["input_ids"] = batch["input_ids"].masked_fill(is_hidden, MASK_TOKEN)
    return batch


def pretraining_texts(config: Any) -> Batch:
    """Texts with hidden tokens, and of each whether its second half is another text's."""
    return masked_texts(config) | {"next_sentence_label": torch.tensor([0, 1, 1])}


def token_labels(config: Any) -> Batch:
    """A class for every unpadded token."""
    batch = encoder_texts(config)
    classes = labels(tuple(batch["input_ids"].shape), config.num_labels)
    return batch | {"labels": classes.masked_fill(batch["attention_mask"] == 0, IGNORED)}


def flagged_texts(config: Any) -> Batch:
    """A yes or no for each class of each text."""
    return encoder_texts(config) | {"labels": labels((3, config.num_labels), 2).float()}


def numbered_texts(config: Any) -> Batch:
    """A number for each text."""
    return encoder_texts(config) | {"labels": torch.tensor([0.5, -1.25, 3.0])}


def spans(config: Any) -> Batch:
    """Where the answer begins and ends in each text.

    The texts are equally long: transformers' loss of a span counts the scores of padding, too.
    """
    span = {"start_positions": torch.tensor([3, 0, 5]), "end_positions": torch.tensor([9, 16, 5])}
    return encoder_texts(config, (19, 19, 19)) | span


def images(config: Any) -> Batch:
    """Three images, as after the usual scaling of pixels."""
    side = config.image_size
    pixels = np.random.default_rng(3).standard_normal((3, config.num_channels, side, side))
    return {"pixel_values": torch.from_numpy(pixels.astype(np.float32))}


def clip_pairs(config: Any) -> Batch:
    """Three images and three texts, each closed by an end token."""
    batch = texts(config.text_config)
    tokens, ends = batch["input_ids"], torch.tensor(LENGTHS) - 1
    end = config.text_config.eos_token_id
    end = config.text_config.vocab_size - 1 if end == 2 else end
    tokens = torch.where((tokens == end) & (batch["attention_mask"] == 1), FIRST_WORD, tokens)
    tokens[torch.arange(len(LENGTHS)), ends] = end
    return batch | {"input_ids": tokens} | images(config.vision_config)


def translations(config: Any) -> Batch:
    """Texts and their targets; the decoder reads each target one place later."""
    target = texts(config, TARGET_LENGTHS, seed=4)
    words, is_padding = target["input_ids"], target["attention_mask"] == 0
    read = words.roll(1, dims=1)
    read[:, 0] = config.decoder_start_token_id
    read = read.masked_fill(is_padding.roll(1, dims=1) & is_padding, config.pad_token_id)
    return texts(config) | {
        "decoder_input_ids": read,
        "labels": words.masked_fill(is_padding, IGNORED),
    }


def unpadded(values: Tensor, mask: Tensor) -> Tensor:
    """Zeros where the mask is zero: what a model says of padding means nothing."""
    return values * mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim))


def next_token_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy of every unpadded token but the first of a row, given those before."""
    targets = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())


def run_decoder(model: Any, batch: Batch) -> Answer:
    """Logits and last hidden state of a causal language model, and its loss without routers'."""
    hidden = model.base_model(**batch, use_cache=False).last_hidden_state
    logits = model(**batch, use_cache=False).logits
    mask = batch["attention_mask"]
    outputs = {"logits": unpadded(logits, mask), "last_hidden_state": unpadded(hidden, mask)}
    return next_token_loss(logits, batch), outputs


def run_encoder(model: Any, batch: Batch) -> Answer:
    """The logits of heads over an encoder, its last state and transformers' own loss."""
    answer, mask = model(**batch), batch.get("attention_mask")
    outputs = {name: answer[name] for name in LOGITS if name in answer}
    inputs = {name: x for name, x in batch.items() if name not in TARGETS}
    outputs["last_hidden_state"] = model.base_model(**inputs).last_hidden_state
    for name, value in outputs.items():
        if mask is not None and value.shape[:2] == mask.shape:
            outputs[name] = unpadded(value, mask)
    return answer.loss, outputs


def run_headless(model: Any, batch: Batch) -> Answer:
    """The states of a model without a head; the loss is the mean square of the pooled one."""
    answer, mask = model(**batch), batch.get("attention_mask")
    hidden = answer.last_hidden_state
    outputs = {
        "last_hidden_state": hidden if mask is None else unpadded(hidden, mask),
        "pooler_output": answer.pooler_output,
    }
    return answer.pooler_output.square().mean(), outputs


def run_clip(model: Any, batch: Batch) -> Answer:
    """The two embeddings and their similarity, both towers' states, and the contrastive loss.

    Those of images are taken behind the norm that transformers gives the first of them only.
    """
    answer = model(**batch, return_loss=True)
    names = ("logits_per_image", "text_embeds", "image_embeds")
    images = answer.vision_model_output.last_hidden_state
    return answer.loss, {name: answer[name] for name in names} | {
        "text_last_hidden_state": unpadded(
            answer.text_model_output.last_hidden_state, batch["attention_mask"]
        ),
        "image_last_hidden_state": model.vision_model.post_layernorm(images),
    }


def run_seq2seq(model: Any, batch: Batch) -> Answer:
    """The logits of the targets, the last state of both halves and transformers' own loss."""
    answer = model(**batch, use_cache=False)
    states, mask = answer.encoder_last_hidden_state, batch["attention_mask"]
    hidden = model.get_decoder()(
        input_ids=batch["decoder_input_ids"],
        encoder_hidden_states=states,
        encoder_attention_mask=mask,
        use_cache=False,
    ).last_hidden_state
    is_scored = batch["labels"] != IGNORED
    return answer.loss, {
        "logits": unpadded(answer.logits, is_scored),
        "last_hidden_state": unpadded(hidden, is_scored),
        "encoder_last_hidden_state": unpadded(states, mask),
    }


TASKS = {
    "decoder": Task(texts, run_decoder),
    "masked_lm": Task(masked_texts, run_encoder),
    "pretraining": Task(pretraining_texts, run_encoder),
    "sequence": Task(
        lambda config: encoder_texts(config) | {"labels": labels((3,), config.num_labels)},
        run_encoder,
    ),
    "multi_label": Task(flagged_texts, run_encoder),
    "regression": Task(numbered_texts, run_encoder),
    "token": Task(token_labels, run_encoder),
    "question_answering": Task(spans, run_encoder),
    "text_model": Task(encoder_texts, run_headless),
    "image_classification": Task(
        lambda config: images(config) | {"labels": labels((3,), config.num_labels)}, run_encoder
    ),
    "image_model": Task(images, run_headless),
    "clip": Task(clip_pairs, run_clip),
    "seq2seq": Task(translations, run_seq2seq),
}
