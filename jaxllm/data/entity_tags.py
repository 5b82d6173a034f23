"""Entities as tags of words: B- and the type where one begins, I- where it goes on, O elsewhere.

An I- that goes on with nothing, as behind O or behind an entity of another type, begins an entity:
so count `conlleval` and seqeval, and texts of the CoNLL 2003 task are tagged so.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

OUTSIDE = "O"
BEGINS, GOES_ON = "B-", "I-"


class Entity(NamedTuple):
    """The words of one entity, from one up to before another, and its type."""

    first: int
    stop: int
    type: str


def check_tags(tags: Sequence[str]) -> None:
    """ValueError for names that are no tags of entities."""
    if len(set(tags)) < len(tags):
        raise ValueError("tags: a tag is given twice")
    if OUTSIDE not in tags:
        raise ValueError(f"tags: {OUTSIDE!r} is missing, the tag of words of no entity")
    for tag in tags:
        if tag != OUTSIDE and (tag[:2] not in (BEGINS, GOES_ON) or len(tag) == 2):
            raise ValueError(
                f"tags: {tag!r} is neither {OUTSIDE!r} nor {BEGINS!r} or {GOES_ON!r} and a type, "
                f"as {BEGINS}PERSON"
            )
    for tag in tags:
        if tag.startswith(GOES_ON) and BEGINS + tag[2:] not in tags:
            raise ValueError(f"tags: {tag!r} is given, but not {BEGINS + tag[2:]!r}")


def entities_of(tags: Sequence[str]) -> Iterator[Entity]:
    """The entities that tags of words tell, in order."""
    first, type_ = 0, ""
    for number, tag in enumerate([*tags, OUTSIDE]):
        goes_on = tag.startswith(GOES_ON) and tag[2:] == type_
        if type_ and not goes_on:
            yield Entity(first, number, type_)
        if tag == OUTSIDE:
            type_ = ""
        elif not goes_on:
            first, type_ = number, tag[2:]


def tags_of(entities: Sequence[Entity], *, num_words: int) -> list[str]:
    """The tags of words that tell entities, which must not overlap."""
    tags = [OUTSIDE] * num_words
    for first, stop, type_ in entities:
        tags[first:stop] = [BEGINS + type_, *[GOES_ON + type_] * (stop - first - 1)]
    return tags
