"""What transformers and tiktoken make of awkward texts; see hf_tokenizer_reference.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiktoken
from hf_tokenizer_training import HELLO
from transformers import AutoTokenizer

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"
TEXTS = [
    "",
    " ",
    "Hello, the quick fox doesn't JUMP.",
    " leading space",
    "  two leading and two trailing  ",
    "many      spaces     inside        here",
    "newlines\n\n\nand\r\nmore\n \n  \n",
    "\n",
    "\t\ttabs\tin\tcode:\n\tif x == 1:\n\t\treturn 'y'  # z\n",
    f"emoji \U0001f600 {FAMILY} \U0001f44d\U0001f3fd \U0001f1e9\U0001f1ea",
    f"{HELLO['Arabic']} \u0641\u064a \u0643\u0645",
    f"{HELLO['Hindi']}, \u0939\u093f\u0928\u094d\u0926\u0940 \u092e\u0947\u0902 \u0939\u0948\u0902",
    f"{HELLO['Chinese']} and {HELLO['Japanese']}\u3002",
    "numbers 0 12 123 1234 12345 1,234,567.89 \u0661\u0662\u0663 \uff11\uff12\uff13 \u00bd",
    "\u0301 lone, e\u0301 and \u00e9, \u0915\u094d, \u200d\u200d, \ufb01ne",
    "<s>spelled</s> <unk> <pad> <|endoftext|> <|begin_of_text|>now<|end_of_text|> [CLS] [SEP]",
    "<|im_start|>user\nHi<|im_end|> <tool> <extra_id_0> <mask> [MASK] <bos>x<eos>",
    "we'll I'VE they\u2019re x'd 'tis can't've",
    "CamelCaseWords snake_case_words kebab-case HTTPServer42x",
    "https://example.org/a?b=c&d=%20 user@example.org ++--==**//..",
    "\u2581 a space mark\u2581inside",
    "non\u00a0breaking\u3000wide\u2028line\ufeffmark\u00ad",
    "\u0000 null \u0007 bell \u007f",
    "list --\n/path //\r\n/ 12 and the end\n ",
    "Stra\u00dfe \u0130stanbul \u01c5 \u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2 \u1e9e",
]
LANGUAGES = [
    ">>fra<< The quick fox",
    ">>fra<<fox >>hin<< dog",
    ">>xxx<<fox",
    "fox >>fra<< dog",
    ">>fra<<",
    "dog</s>>>hin<<fox",
    ">>fra fox",
]
PAIRS = [("The quick fox", "the lazy dog"), ("one", ""), ("", "two"), ("  a ", " b\n")]


def transformers_reference(folder: Path) -> dict[str, Any]:
    """What AutoTokenizer gives: parsed without and with specials, taken as text, pairs, decoded."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    text = [
        tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        for text in TEXTS
    ]
    pairs = [tokenizer(*pair, return_token_type_ids=True) for pair in PAIRS]
    of_two_sides = {}
    if (folder / "target.spm").exists():
        of_two_sides = {
            "target": [tokenizer(text_target=text)["input_ids"] for text in TEXTS],
            "languages": [[text, tokenizer(text)["input_ids"]] for text in LANGUAGES],
        }
    return of_two_sides | {
        "class": type(tokenizer).__name__,
        "plain": plain,
        "special": [tokenizer(text)["input_ids"] for text in TEXTS],
        "text": text,
        "pairs": [[pair["input_ids"], pair["token_type_ids"]] for pair in pairs],
        "decoded": [tokenizer.decode(ids) for ids in text],
        "length": len(tokenizer),
        "ids": {
            name: tokenizer.convert_tokens_to_ids(token)
            for name, token in tokenizer.special_tokens_map.items()
        },
    }


def tiktoken_reference(
    ranks: dict[bytes, int],
    *,
    pattern: str,
    specials: list[str],
    prepare: Callable[[str], str] = str,
) -> dict[str, Any]:
    """What tiktoken gives with a split pattern; `prepare` is done to a text before.

    specials: the tokens behind the ranks, "" for an id that has none.
    """
    encoding = tiktoken.Encoding(
        "tiny",
        pat_str=pattern,
        mergeable_ranks=ranks,
        special_tokens={t: len(ranks) + index for index, t in enumerate(specials) if t},
    )
    texts = [prepare(text) for text in TEXTS]
    ids = [encoding.encode(text, disallowed_special=()) for text in texts]
    return {
        "class": "tiktoken",
        "plain": [encoding.encode(text, allowed_special="all") for text in texts],
        "text": ids,
        "decoded": [encoding.decode(row) for row in ids],
        "length": encoding.max_token_value + 1,
    }
