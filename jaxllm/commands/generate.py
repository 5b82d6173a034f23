"""`jaxllm generate`: continue prompts with a trained model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from jaxllm.commands.console import Console
from jaxllm.commands.prompts import as_published, document, has_chats, question
from jaxllm.commands.run_folder import open_model, place_of, read_published_config
from jaxllm.commands.run_place import open_to_read
from jaxllm.config_errors import explain
from jaxllm.generation import Generator, Sampling
from jaxllm.models import Decoder
from jaxllm.objectives import PrefixLm
from jaxllm.parallel import distributed


def generate(
    run: str | Path,
    prompts: Sequence[str],
    *,
    sampling: Mapping[str, Any],
    step: int | None = None,
    is_chat: bool = False,
) -> list[str]:
    """Print each prompt with its continuation; returns the continuations.

    run: a folder, or gs://. sampling: fields of `Sampling`. is_chat: prompts are what a user says,
    in the chat template; so they are for a run that learned from conversations.
    ValueError for a field out of range or a folder that is no run.
    """
    try:
        settings = Sampling.model_validate(sampling)
    except ValidationError as error:
        options = [f"--{line.replace('_', '-', 1)}" for line in explain(error, Sampling)]
        raise ValueError("\n".join(options)) from None
    with open_to_read(run) as run_dir:
        trained = open_model(run_dir, step=step)
        place = place_of(run_dir)
        if not isinstance(trained.parts.model, Decoder):
            raise ValueError(
                f"{place} has a model of type {trained.config.model.type}, which continues no text"
            )
        if trained.tokenizer is None:
            raise ValueError(f"{place} was trained on ids without a tokenizer; it has no text")
        is_imported = bool(read_published_config(run_dir))
    generator = Generator(
        trained.parts.model,
        vocab_size=trained.tokenizer.vocab_size,
        stop_ids=trained.tokenizer.stop_ids,
        sampling=settings,
        has_prefix=isinstance(trained.config.objective, PrefixLm),
        layout=trained.parts.layout,
    )
    is_chat = is_chat or has_chats(trained.config.data)
    read = question if is_chat else as_published if is_imported else document
    ids = [read(trained.tokenizer, prompt) for prompt in prompts]
    texts = [trained.tokenizer.decode(new) for new in generator(trained.params, ids)]
    console = Console(is_shown=distributed.is_first())
    for prompt, text in zip(prompts, texts, strict=True):
        console.say(f"{prompt}\n{text}" if is_chat else prompt + text)
    return texts
