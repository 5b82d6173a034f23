"""How well what belongs to something is found among all that is there.

N pairs, P width of the vectors, n pairs at a time.
"""

from typing import NamedTuple

import numpy as np

_AT_ONCE = 1024


class RetrievalFigures(NamedTuple):
    """What came out of looking for the second of each pair by the first, in the whole set.

    recall_at_1, recall_at_5: shares of those that are the nearest, or among the five nearest.
    mean_reciprocal_rank: the mean of 1 / their place.
    """

    recall_at_1: float
    recall_at_5: float
    mean_reciprocal_rank: float

    def record(self, prefix: str) -> dict[str, float]:
        """The figures by name."""
        return {f"{prefix}{name}": value for name, value in self._asdict().items()}

    def describe(self) -> str:
        """The most telling ones in a line."""
        return (
            f"found first {self.recall_at_1:.4f}, among five {self.recall_at_5:.4f}, mean "
            f"reciprocal rank {self.mean_reciprocal_rank:.4f}"
        )


def retrieval_figures(sought_by_NP: np.ndarray, found_NP: np.ndarray) -> RetrievalFigures:
    """The figures of vectors that are compared by their products, row by row a pair.

    Where others are as near as its own, it comes last of them: equal vectors find nothing.
    """
    ranks = []
    for start in range(0, len(sought_by_NP), _AT_ONCE):
        scores_nN = sought_by_NP[start : start + _AT_ONCE] @ found_NP.T
        own_n = np.arange(len(scores_nN))
        own_score_n1 = scores_nN[own_n, start + own_n][:, None]
        # A vector that is no number finds nothing either.
        ranks.append(np.sum(~(scores_nN < own_score_n1), axis=1))
    rank_N = np.concatenate(ranks)
    return RetrievalFigures(
        recall_at_1=float(np.mean(rank_N <= 1)),
        recall_at_5=float(np.mean(rank_N <= 5)),
        mean_reciprocal_rank=float(np.mean(1 / rank_N)),
    )
