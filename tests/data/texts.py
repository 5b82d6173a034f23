"""Small texts to test on: English-like documents, and strings that break naive tokenizers."""

import random
from pathlib import Path

COMMON = """
the of and to in a is that for it was on are as with his they be at one have this from by hot word
but what some we can out other were all there when up use your how said an each nation people
government congress year country
"""
WORDS = COMMON.split()

AWKWARD = [
    "",
    " ",
    "   leading and trailing   ",
    "tabs\tand\r\nline ends\n\n\nthree",
    "null \0 byte, bell \a, delete \x7f",
    "a space mark \u2581 and two \u2581\u2581, alone:",
    "\u2581",
    "emoji \U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467, accents e\u0301 \u00e9, \ufb01",
    "\ufeffbyte order mark, replacement \ufffd, separator \u2028, non-breaking\u00a0space",
    "<|document|> <|endoftext|> <s> </s> <unk> <pad> <0x41> <0x0A>",
    "1234567890 3.14159 \u0661\u0662\u0663 \uff11\uff12",
    "\u4e2d\u6587\u5b57\u7b26 \u0420\u0443\u0441\u0441\u043a\u0438\u0439",
    "\u05e2\u05d1\u05e8\u05d9\u05ea",
    "x" * 3000,
    "noncharacter \uffff \U0010ffff",
]


def document(seed: int, words: int = 300) -> str:
    """Text of about six characters a word, in paragraphs, with a few numbers."""
    source = random.Random(seed)
    chosen = [
        str(source.randrange(10_000)) if source.random() < 0.03 else source.choice(WORDS)
        for _ in range(words)
    ]
    return ". ".join(" ".join(chosen[i : i + 12]) for i in range(0, words, 12)) + ".\n\n"


def write_texts(folder: Path, count: int, words: int = 300) -> Path:
    """Files 0000.txt, 0001.txt, ..., the awkward strings among them."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        text = document(index, words) + AWKWARD[index % len(AWKWARD)]
        (folder / f"{index:04d}.txt").write_bytes(text.encode("utf-8"))
    return folder
