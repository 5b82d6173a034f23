"""Tags tell entities as seqeval reads them."""

import random

import pytest
from seqeval.metrics.sequence_labeling import get_entities

from jaxllm.data.entity_tags import Entity, check_tags, entities_of, tags_of

TAGS = ("O", "B-A", "I-A", "B-B", "I-B")


def test_entities_are_those_of_seqeval():
    """Whatever the order of tags, I- behind O and behind another type among them."""
    draw = random.Random(0)
    for _ in range(300):
        tags = draw.choices(TAGS, k=draw.randrange(12))
        expected = [Entity(first, last + 1, type_) for type_, first, last in get_entities(tags)]
        assert list(entities_of(tags)) == expected, tags


def test_tags_tell_the_entities_that_they_are_made_of():
    entities = [Entity(1, 2, "A"), Entity(2, 5, "A"), Entity(6, 8, "B")]
    tags = tags_of(entities, num_words=9)
    assert tags == ["O", "B-A", "B-A", "I-A", "I-A", "O", "B-B", "I-B", "O"]
    assert list(entities_of(tags)) == entities


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (["O", "B-A", "B-A"], "given twice"),
        (["B-A", "I-A"], "'O' is missing"),
        (["O", "PERSON"], "'PERSON' is neither"),
        (["O", "B-"], "'B-' is neither"),
        (["O", "B-A", "I-B"], "'I-B' is given, but not 'B-B'"),
    ],
)
def test_names_that_are_no_tags_are_refused(tags, message):
    with pytest.raises(ValueError, match=message):
        check_tags(tags)
    check_tags(TAGS)
