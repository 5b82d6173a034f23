"""What lies beside the weights of a published model: tokenizer, settings of generation, modules."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxllm.containment import contained
from jaxllm.models import EncoderDecoderConfig

GENERATION_FILE = "generation_config.json"
_PATTERNS = (
    GENERATION_FILE,
    "*tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.*",
    "vocab.*",
    "merges.txt",
    "*.spm",
    "*.model",
    "*.tiktoken",
    "preprocessor_config.json",
    # Of models of sentences: which modules follow the network, and what each does.
    "modules.json",
    "*sentence*bert*config.json",
    "config_sentence_transformers.json",
    "[0-9]_*/*.json",
    "[0-9]_*/*.safetensors",
)


def copy_companions(source: Path, out: Path) -> None:
    """Write what is beside the weights of a folder as it is.

    ValueError for a link that leads out of the folder.
    """
    for pattern in _PATTERNS:
        for path in sorted(source.glob(pattern)):
            name = path.relative_to(source)
            (out / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(contained(source, str(name)), out / name)


def target_settings(config: Any) -> dict[str, Any]:
    """What generation_config.json says of an encoder-decoder's targets; nothing of other networks.

    Where the file is there, transformers does not look for them in config.json.
    """
    if not isinstance(config, EncoderDecoderConfig):
        return {}
    settings: dict[str, Any] = {"decoder_start_token_id": config.start_id}
    if config.padding_id is not None:
        settings |= {"pad_token_id": config.padding_id, "bad_words_ids": [[config.padding_id]]}
    if config.forced_end_id is not None:
        settings["forced_eos_token_id"] = config.forced_end_id
    return settings


def write_generation(folder: Path, *, ids: Mapping[str, Any], stop_ids: Sequence[int]) -> None:
    """Write generation_config.json: ids of special tokens, and those that end a text."""
    stops = list(stop_ids)
    generation = {**ids, "eos_token_id": stops if len(stops) > 1 else stops[0]}
    text = json.dumps(generation, indent=2) + "\n"
    (folder / GENERATION_FILE).write_text(text, encoding="utf-8")
