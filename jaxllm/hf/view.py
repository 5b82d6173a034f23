"""How one of our weights lies in one of theirs: a notation that reads both ways.

`(N H) D -> D N H` says that their matrix has rows of N heads of H numbers and columns of D, and
ours the dimensions D, N, H. Ours decides the sizes. On their side `H@8/24` is the part of a
dimension of 24 that begins at 8 and is as long as H; `@1/3` alone is number 1 of 3. `c2` is a
dimension of 2, where the sizes of ours do not tell: `(p c2) -> (c2 p)` takes pairs apart.
"""

import math
import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

_ITEM = re.compile(r"\(([^()]*)\)(?:@(\d+)/(\d+))?|([A-Za-z]\d*)(?:@(\d+)/(\d+))?|@(\d+)/(\d+)")


@dataclass(frozen=True)
class _Part:
    """Dimensions of ours that lie together in a dimension of theirs, or one number of it.

    start and total: the part that they are of that dimension; None is all of it.
    """

    letters: tuple[str, ...]
    start: int | None = None
    total: int | None = None


@dataclass(frozen=True)
class View:
    """A parsed notation. theirs: for each of their dimensions, its parts from slow to fast."""

    notation: str
    theirs: tuple[tuple[_Part, ...], ...]
    ours: tuple[tuple[str, ...], ...]

    def shape(self, ours_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of theirs."""
        sizes = self._sizes(ours_shape)
        return tuple(
            math.prod(_total(part, sizes) for part in dimension) for dimension in self.theirs
        )

    def take(self, theirs: np.ndarray, ours_shape: tuple[int, ...]) -> np.ndarray:
        """Ours, seen in theirs: no copy, unless ours has a dimension `(c2 p)`."""
        return self._seen(theirs, self._sizes(ours_shape)).reshape(ours_shape)

    def put(self, theirs: np.ndarray, ours: np.ndarray) -> None:
        """Write ours to where it lies in theirs."""
        sizes = self._sizes(ours.shape)
        seen = self._seen(theirs, sizes)
        seen[...] = ours.reshape(seen.shape)

    def _seen(self, theirs: np.ndarray, sizes: dict[str, int]) -> np.ndarray:
        """Theirs as a view with one dimension a letter, in our order."""
        parts = [part for dimension in self.theirs for part in dimension]
        seen = theirs.reshape([_total(part, sizes) for part in parts])
        assert np.shares_memory(seen, theirs) or not theirs.size, "not a view"
        index = tuple(
            slice(None)
            if part.start is None
            else part.start
            if not part.letters
            else slice(part.start, part.start + _size(part, sizes))
            for part in parts
        )
        letters = [letter for part in parts for letter in part.letters]
        # The dots keep an array without dimensions a view.
        seen = seen[(..., *index)].reshape([sizes[letter] for letter in letters])
        return seen.transpose([letters.index(letter) for group in self.ours for letter in group])

    def _sizes(self, ours_shape: tuple[int, ...]) -> dict[str, int]:
        assert len(ours_shape) == len(self.ours), (self.notation, ours_shape)
        sizes: dict[str, int] = {}
        for letters, size in zip(self.ours, ours_shape, strict=True):
            fixed = {letter: int(letter[1:]) for letter in letters if letter[1:]}
            free = [letter for letter in letters if not letter[1:]]
            rest = size // math.prod(fixed.values())
            assert len(free) <= 1, f"{self.notation}: more than one size to find"
            assert rest * math.prod(fixed.values()) == size, (self.notation, ours_shape)
            sizes |= fixed | dict.fromkeys(free, rest)
        return sizes


def _size(part: _Part, sizes: dict[str, int]) -> int:
    return math.prod(sizes[letter] for letter in part.letters)


def _total(part: _Part, sizes: dict[str, int]) -> int:
    return _size(part, sizes) if part.total is None else part.total


@lru_cache(maxsize=512)
def view(notation: str) -> View:
    """The view that a notation like `(N H) D -> D N H` describes."""
    left, right = (side.strip() for side in notation.split("->"))
    theirs = tuple(_dimension(text) for text in _split(left))
    ours = tuple(tuple(text.strip("()").split()) for text in _split(right))
    here = sorted(letter for dimension in theirs for part in dimension for letter in part.letters)
    there = sorted(letter for group in ours for letter in group)
    assert here == there, f"{notation}: {here} on the left, {there} on the right"
    return View(notation, theirs, ours)


def _split(side: str) -> list[str]:
    """The outermost terms of one side."""
    terms, depth = [""], 0
    for character in side:
        depth += (character == "(") - (character == ")")
        if character == " " and not depth:
            terms.append("")
        else:
            terms[-1] += character
    return [term for term in terms if term]


def _dimension(text: str) -> tuple[_Part, ...]:
    """The parts of one of their dimensions: a group in brackets, or one part alone."""
    if text.startswith("(") and text.endswith(")"):
        return tuple(_part(term) for term in _split(text[1:-1]))
    return (_part(text),)


def _part(text: str) -> _Part:
    match = _ITEM.fullmatch(text)
    assert match is not None, f"not a part of a notation: {text!r}"
    group, start, total, letter, letter_start, letter_total, index, of = match.groups()
    if index is not None:
        return _Part((), int(index), int(of))
    letters = tuple(group.split()) if letter is None else (letter,)
    begin, size = (start, total) if letter is None else (letter_start, letter_total)
    return _Part(letters) if begin is None else _Part(letters, int(begin), int(size))
