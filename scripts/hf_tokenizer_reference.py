"""Tiny tokenizers of every kind in the Hugging Face layout, and the ids that others give on them.

    PYTHON scripts/hf_tokenizer_reference.py [KIND ...] [--out FOLDER] [--files FOLDER]

PYTHON is an interpreter of its own with transformers==5.23.0, sentencepiece, tiktoken, protobuf and
jinja2, without jaxllm. Each kind becomes a folder under tests/golden/hf_tokenizers, or under the
folder that --out names: the files as a
model's folder has them, and reference.json with what transformers makes of awkward texts (tiktoken
itself, where transformers would have to run a model's own code). Nothing is downloaded: the
vocabularies are trained on the sentences in hf_tokenizer_training.py. chat_templates.json has
renderings of the templates in hf_chat_reference.py, chat_tokens.json ids of some of them. The
training of some kinds numbers tokens otherwise each time, so with --files transformers is asked
about the files that are there under the names of the kinds, and not about those that were just
made.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

from hf_chat_reference import record_chat_tokens, record_chats
from hf_tokenizer_answers import PAIRS, TEXTS, transformers_reference
from hf_tokenizer_kinds import FOLDERS, write_json

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "hf_tokenizers"


def main() -> None:
    os.environ["TIKTOKEN_CACHE_DIR"] = ""  # it would remember an earlier file of the same path
    kinds = [*FOLDERS, "chat_templates"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(kinds))
    parser.add_argument("--out", type=Path, default=GOLDEN)
    parser.add_argument("--files", type=Path)
    given = parser.parse_args()
    wanted, out = given.kinds or kinds, given.out
    if unknown := set(wanted) - set(kinds):
        parser.error(f"no such kind: {', '.join(sorted(unknown))}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "texts.json").write_text(json.dumps({"texts": TEXTS, "pairs": PAIRS}, indent=0))
    if "chat_templates" in wanted:
        record_chats(out / "chat_templates.json")
        record_chat_tokens(out / "chat_tokens.json", given.files or GOLDEN)
    for kind in wanted:
        if kind in FOLDERS:
            folder = out / kind
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            asked = given.files / kind if given.files else folder
            reference = FOLDERS[kind](folder) or transformers_reference(asked)
            write_json(folder / "reference.json", reference, indent=None)
            sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
            assert max(sizes.values()) < 60_000, sizes
            print(kind, sizes)


if __name__ == "__main__":
    main()
