"""Two Bibles in SWORD's import format -> a table of verses in both languages.

Usage: python scripts/parallel_verses.py ENGLISH.imp SPANISH.imp OUT.tsv

`mod2imp` of Debian's libsword-utils writes both files; docs/translation.md has the commands.
The fields of the table: source, target, and chapter, by which verses are held out together.
"""

import csv
import html
import re
import sys
from collections.abc import Iterator
from pathlib import Path

_VERSE = re.compile(r"(.+ \d+):([1-9]\d*)")  # verse 0 is a heading
_ASIDE = re.compile(r"<(note|title)\b[^>]*(?<!/)>.*?</\1>", re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
# A note between two words, each in a mark of its own, stands in place of their space.
_WORD_END = re.compile(r"(?<=</w>)<note\b.*?</note>(?=<w )", re.DOTALL)


def main(source: Path, target: Path, out: Path) -> None:
    """Write the verses that both files have, in the order of the first."""
    targets = dict(verses(target))
    count = 0
    with out.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE)
        table.writerow(["source", "target", "chapter"])
        for place, text in verses(source):
            if text and targets.get(place):
                table.writerow([text, targets[place], place[0]])
                count += 1
    print(f"{count:,} verses are in {out}")


def verses(path: Path) -> Iterator[tuple[tuple[str, int], str]]:
    """((chapter, number), text) of each verse of a file, without notes, headings and marks."""
    for entry in path.read_text(encoding="utf-8").split("$$$")[1:]:
        place, _, text = entry.partition("\n")
        found = _VERSE.fullmatch(place)
        if found:
            yield (found[1], int(found[2])), plain(text)


def plain(text: str) -> str:
    """The words of a verse, with single spaces between them."""
    text = text.partition("<chapter eID=")[0]  # what follows on a chapter is none of its verses
    text = _ASIDE.sub("", _WORD_END.sub(" ", text))
    return " ".join(html.unescape(_TAG.sub("", text)).split())


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:]))
