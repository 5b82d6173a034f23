"""How one of our weights lies in one of theirs: a notation that reads both ways.

`(N H) D -> D N H` says that their matrix has rows of N heads of H numbers and columns of D, and
ours the dimensions D, N, H. Ours decides the sizes. On their side `H@8/24` is the part of a
dimension of 24 that begins at 8 and is as long as H; `@1/3` alone is number 1 of 3. `c2` is a
dimension of 2, where the sizes of ours do not tell: `(p c2) -> (c2 p)` takes pairs apart.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

Index = tuple[slice, ...]  # without steps, one of each dimension
Read = Callable[[Index], np.ndarray]

_RANK = "r"  # the letter of a product's inner dimension, which no notation has
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

    def factors(self, num_inputs: int) -> "Factors":
        """How the factors of a product lie beside theirs, where ours has so many inputs first.

        ValueError where theirs is no matrix of inputs and outputs.
        """
        inputs = {letter for group in self.ours[:num_inputs] for letter in group}
        are_inputs = [
            {letter for part in dimension for letter in part.letters} <= inputs
            for dimension in self.theirs
        ]
        if sorted(are_inputs) != [False, True]:
            raise ValueError(f"{self.notation} is no matrix of inputs and outputs")
        rank = (_Part((_RANK,)),)
        ins, outs = self.theirs[are_inputs.index(True)], self.theirs[are_inputs.index(False)]
        return Factors(
            down=View(self.notation, (rank, ins), (*self.ours[:num_inputs], (_RANK,))),
            up=View(self.notation, (outs, rank), ((_RANK,), *self.ours[num_inputs:])),
            results=View(self.notation, (outs,), self.ours[num_inputs:]),
            is_inputs_first=are_inputs[0],
        )

    def take(self, theirs: np.ndarray, ours_shape: tuple[int, ...]) -> np.ndarray:
        """Ours, seen in theirs: no copy, unless ours has a dimension `(c2 p)`."""
        whole = (slice(None),) * len(ours_shape)
        return self.part(lambda box: _at(theirs, box), ours_shape, whole)

    def part(self, read: Read, ours_shape: tuple[int, ...], index: Index) -> np.ndarray:
        """Ours at `index`, of the box of theirs around it, which is all that is read.

        The box is as small as rows and columns go, and larger only where `index` cuts a dimension
        of ours inside of one of theirs: heads are cut from their rows, parts of each head are not.
        """
        sizes = self._sizes(ours_shape)
        cuts = [range(size)[piece] for piece, size in zip(index, ours_shape, strict=True)]
        wanted = {letter: range(size) for letter, size in sizes.items()}
        # A dimension of several letters is read whole, and cut when it is put together.
        wanted |= {of[0]: cut for of, cut in zip(self.ours, cuts, strict=True) if len(of) == 1}
        boxes = [_box(dimension, sizes, wanted) for dimension in self.theirs]
        there = {letter: numbers for box in boxes for letter, numbers in box.letters.items()}
        seen = self._seen(read(tuple(box.span for box in boxes)), boxes)
        within = (_within(wanted[letter], there[letter]) for of in self.ours for letter in of)
        parts = _at(seen, within)
        shape = [math.prod(len(wanted[letter]) for letter in of) for of in self.ours]
        last = zip(self.ours, cuts, strict=True)
        return _at(
            parts.reshape(shape),
            (slice(None) if len(of) == 1 else slice(cut.start, cut.stop) for of, cut in last),
        )

    def put(self, theirs: np.ndarray, ours: np.ndarray) -> None:
        """Write ours to where it lies in theirs."""
        sizes = self._sizes(ours.shape)
        wanted = {letter: range(size) for letter, size in sizes.items()}
        boxes = [_box(dimension, sizes, wanted) for dimension in self.theirs]
        seen = self._seen(_at(theirs, (box.span for box in boxes)), boxes)
        seen[...] = ours.reshape(seen.shape)

    def _seen(self, box: np.ndarray, boxes: "list[_Box]") -> np.ndarray:
        """A box of theirs as a view with one dimension a letter, in our order."""
        seen = box.reshape([size for one in boxes for size in one.shape])
        assert np.shares_memory(seen, box) or not box.size, "not a view"
        seen = _at(seen, (place for one in boxes for place in one.places))
        seen = seen.reshape([len(numbers) for one in boxes for numbers in one.letters.values()])
        letters = [letter for one in boxes for letter in one.letters]
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


class Factors(NamedTuple):
    """How (inputs, rank) lies in their (rank, inputs), (rank, outputs) in their (outputs, rank),
    and what there is one of for each output in a vector.

    is_inputs_first: whether their matrix itself has rows of inputs.
    """

    down: View
    up: View
    results: View
    is_inputs_first: bool


class _Box(NamedTuple):
    """What is read along one dimension of theirs, and where ours is in it.

    span: of theirs. shape: the sizes of its parts. places: where ours is in each part. letters:
    the numbers of each letter that it has.
    """

    span: slice
    shape: list[int]
    places: list[int | slice]
    letters: dict[str, range]


def _box(
    dimension: tuple[_Part, ...], sizes: Mapping[str, int], wanted: Mapping[str, range]
) -> _Box:
    """The numbers along a dimension of theirs from the first to the last that is wanted.

    Of the parts of one dimension only the slowest can be cut, and where that is one number also
    the next.
    """
    shape: list[int] = []
    places: list[int | slice] = []
    letters: dict[str, range] = {}
    at, count, is_cut = 0, 1, True
    for part in dimension:
        size, total, start = _size(part, sizes), _total(part, sizes), part.start or 0
        letters |= {letter: range(sizes[letter]) for letter in part.letters}
        if not is_cut:
            first, length, place = 0, total, slice(start, start + size)
        elif len(part.letters) == 1:
            (letter,) = part.letters
            letters[letter] = wanted[letter]
            first, length, place = start + wanted[letter].start, len(wanted[letter]), slice(None)
        else:
            first, length, place = start, size, slice(None)
        shape.append(length)
        places.append(place if part.letters else place.start or 0)
        at, count = at * total + first, count * length
        is_cut = is_cut and length == 1
    return _Box(slice(at, at + count), shape, places, letters)


def _at(array: np.ndarray, index: Iterable[int | slice]) -> np.ndarray:
    """A part of an array as a view, which the dots keep even one without dimensions."""
    places: tuple[Any, ...] = (..., *index)
    return array[places]


def _within(inner: range, outer: range) -> slice:
    """Where a range is in another."""
    return slice(inner.start - outer.start, inner.stop - outer.start)


def _size(part: _Part, sizes: Mapping[str, int]) -> int:
    return math.prod(sizes[letter] for letter in part.letters)


def _total(part: _Part, sizes: Mapping[str, int]) -> int:
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
