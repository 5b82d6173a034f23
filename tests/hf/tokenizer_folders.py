"""The folders of tests/golden/hf_tokenizers, which scripts/hf_tokenizer_reference.py makes."""

import json
import shutil
from pathlib import Path

from jaxllm.data.model_tokenizer import ModelTokenizer
from jaxllm.hf.tokenizer import find_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden/hf_tokenizers"
GIVEN = json.loads((GOLDEN / "texts.json").read_text())
TEXTS, PAIRS = GIVEN["texts"], GIVEN["pairs"]
KINDS = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())
SPLITS = {"cl100k_ranks": "cl100k", "o200k_ranks": "o200k"}


def found(folder: Path, **options) -> ModelTokenizer:
    """The tokenizer of a folder, which must have one."""
    given = {"vocab_size": None, "split": SPLITS.get(folder.name), **options}
    tokenizer = find_tokenizer(folder, **given)
    assert tokenizer is not None
    return tokenizer


def copied(kind: str, folder: Path) -> Path:
    """A copy of one of the folders, to be changed."""
    return Path(shutil.copytree(GOLDEN / kind, folder / kind))


def change(path: Path, **values) -> None:
    """Sets keys of a JSON file."""
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **values}))
