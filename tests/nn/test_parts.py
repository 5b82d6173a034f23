import pytest

from jaxllm.nn.parts import joined, matching, part_like, split

TREE = {"embed": {"table": 1}, "blocks": {"layers": {"query": {"kernel": 2, "bias": 3}}}, "out": 4}
PATHS = ("embed.table", "blocks.layers.query.kernel", "blocks.layers.query.bias", "out")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("embed", PATHS[:1]),
        ("out", PATHS[3:]),
        ("blocks", PATHS[1:3]),
        ("*.query", PATHS[1:3]),
        ("blocks.*.bias", PATHS[2:3]),
        ("*", PATHS),
    ],
)
def test_a_pattern_matches_whole_paths_or_up_to_a_dot(pattern, found):
    assert matching([pattern], PATHS, key="key") == set(found)


@pytest.mark.parametrize("pattern", ["query", "blocks.layer", "embed.tables", "EMBED", "ou"])
def test_a_pattern_without_a_match_is_an_error_that_lists_what_there_is(pattern):
    with pytest.raises(ValueError, match=f"a.key: '{pattern}' matches nothing") as caught:
        matching(["embed", pattern], PATHS, key="a.key")
    assert all(f"\n  {path}" in str(caught.value) for path in PATHS)


def test_of_many_paths_the_first_are_listed():
    with pytest.raises(ValueError, match=r"\.\.\. and 40 more$"):
        matching(["x"], [f"path{number:03}" for number in range(100)], key="key")


def test_parts_are_the_whole_again():
    chosen, others = split(TREE, {"embed.table", "blocks.layers.query.bias"})
    assert chosen == {"embed": {"table": 1}, "blocks": {"layers": {"query": {"bias": 3}}}}
    assert others == {"blocks": {"layers": {"query": {"kernel": 2}}}, "out": 4}
    assert joined(chosen, others) == TREE == joined(others, chosen)
    assert part_like(TREE, chosen) == chosen
    assert joined(TREE, None) is TREE
    with pytest.raises(AssertionError, match="is in both parts"):
        joined(TREE, others)
