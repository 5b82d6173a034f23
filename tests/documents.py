"""The Markdown of the repository, as the tests of it need it: prose, code, headings."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

_FENCE = re.compile(r"^( *)(```+|~~~+)(.*)$")
_HEADING = re.compile(r"^#{1,6} +(.*?) *#*$")


def documents() -> list[Path]:
    """README.md and its siblings, docs/ and tpu/."""
    folders = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "tpu").rglob("*.md")]
    return [*sorted(ROOT.glob("*.md")), *sorted(folders)]


def lines(path: Path) -> Iterator[tuple[int, str, str | None]]:
    """(number, line, language of the fenced block that it stands in; None in prose)."""
    fence, language = None, None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        found = _FENCE.match(line)
        if fence is None and found:
            fence, language = found[2], found[3].strip()
        elif fence is not None and found and found[2].startswith(fence) and not found[3].strip():
            fence, language = None, None
        else:
            yield number, line, language
    assert fence is None, f"{path}: a fenced block has no end"


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """The lines outside of fenced blocks."""
    return ((number, line) for number, line, language in lines(path) if language is None)


def anchors(path: Path) -> list[str]:
    """What `#...` may name in a file, as GitHub and the site make it of headings."""
    found = (_HEADING.match(line) for _, line in prose(path))
    return [_slug(heading[1]) for heading in found if heading]


def _slug(heading: str) -> str:
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)  # a link is its text
    return re.sub(r"[^\w\- ]", "", text).strip().lower().replace(" ", "-")
