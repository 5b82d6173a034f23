"""Parts of a network's weights: chosen by patterns over their dotted paths, taken out and joined.

Weights are nested dicts, as `param.param_dict` gives them, and so are their declarations.
"""

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase

from jaxllm.nn.param import Nested

_SHOWN = 60  # lines of an error


def matching(patterns: Iterable[str], paths: Collection[str], *, key: str) -> set[str]:
    """The paths that some pattern matches: whole, or up to a dot.

    `*` stands for anything, dots included: `blocks.*.query` is all that there is below any `query`
    in `blocks`. ValueError, which names `key`, for a pattern that matches none.
    """
    found: set[str] = set()
    for pattern in patterns:
        chosen = {path for path in paths if matches(pattern, path)}
        if not chosen:
            shown = sorted(paths)
            more = [f"  ... and {len(shown) - _SHOWN} more"] if shown[_SHOWN:] else []
            lines = "\n".join([*(f"  {path}" for path in shown[:_SHOWN]), *more])
            raise ValueError(f"{key}: {pattern!r} matches nothing; there are\n{lines}")
        found |= chosen
    return found


def matches(pattern: str, path: str) -> bool:
    """Whether a pattern is one of a path, or of what is above it."""
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}.*")


def split(tree: Nested, paths: Collection[str], *, prefix: str = "") -> tuple[Nested, Nested]:
    """(the entries at these paths, all others)."""
    chosen: Nested = {}
    others: Nested = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict):
            inside, outside = split(value, paths, prefix=f"{path}.")
            chosen |= {name: inside} if inside else {}
            others |= {name: outside} if outside else {}
        else:
            (chosen if path in paths else others)[name] = value
    return chosen, others


def part_like(tree: Nested, part: Nested) -> Nested:
    """The entries of `tree` that `part` has too."""
    return {
        name: part_like(tree[name], value) if isinstance(value, dict) else tree[name]
        for name, value in part.items()
    }


def joined(one: Nested, other: Nested | None) -> Nested:
    """Both parts as one tree; they have no entry in common."""
    if other is None:
        return one
    whole = dict(one)
    for name, value in other.items():
        if name in whole:
            assert isinstance(value, dict), f"{name} is in both parts"
            whole[name] = joined(whole[name], value)
        else:
            whole[name] = value
    return whole
