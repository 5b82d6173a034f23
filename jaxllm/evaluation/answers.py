"""How well answers are found: exact match and F1 as SQuAD counts them.

Both of answers without articles, punctuation and capitals (Rajpurkar et al. 2016, section 6.1,
https://arxiv.org/abs/1606.05250; of questions without an answer Rajpurkar et al. 2018,
https://arxiv.org/abs/1806.03822).
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class AnswerFigures(NamedTuple):
    """What came out of answering questions: means over them.

    exact_match: whether an answer is one of the right ones. f1: of the words of an answer and of
    the right one that it is nearest to.
    """

    exact_match: float
    f1: float

    def record(self, prefix: str) -> dict[str, float]:
        """The figures by name."""
        return {f"{prefix}{name}": figure for name, figure in self._asdict().items()}

    def describe(self) -> str:
        """The figures in a line."""
        return f"exact match {self.exact_match:.4f}, F1 {self.f1:.4f}"


def answer_figures(told: Sequence[str], right: Sequence[Sequence[str]]) -> AnswerFigures:
    """The figures of answers, each with all that are right; none is right where it is empty."""
    exact, f1 = 0.0, 0.0
    for answer, golds in zip(told, right, strict=True):
        # An answer of articles alone is like none, so it is no alternative.
        golds = [gold for gold in golds if words(gold)] or [""]
        exact += max(float(words(answer) == words(gold)) for gold in golds)
        f1 += max(word_f1(answer, gold) for gold in golds)
    count = max(len(told), 1)
    return AnswerFigures(exact / count, f1 / count)


def words(answer: str) -> list[str]:
    """What of an answer is compared."""
    return _ARTICLE.sub(" ", answer.lower().translate(_PUNCTUATION)).split()


def word_f1(answer: str, gold: str) -> float:
    """The F1 score of the words that an answer shares with a right one; of none with none 1."""
    told, right = words(answer), words(gold)
    if not told or not right:
        return float(told == right)
    shared = sum((Counter(told) & Counter(right)).values())
    return 2 * shared / (len(told) + len(right))
