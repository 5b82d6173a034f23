"""What the kinds of tokenizer share: the card in a saved one's folder, and the dtype of ids."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.data.content import write_atomically

CARD = "card.json"
"""The file in a tokenizer's folder that says of which kind it is."""


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest dtype that holds every id: uint16, or uint32 above 65,536 tokens."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Writes a tokenizer's card, the last of its files: a folder that has it is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / CARD, json.dumps(card))


def read_card(folder: Path) -> dict[str, Any]:
    """A tokenizer's card. Raises ValueError when the folder has none."""
    if not (folder / CARD).is_file():
        raise ValueError(f"{folder} holds no tokenizer: it has no {CARD}")
    return json.loads((folder / CARD).read_text(encoding="utf-8"))
