"""What words alone tell of texts: linear models of TF-IDF, by scikit-learn.

A model of more work than that should do better. N texts, C classes.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

# Of two letters at least, as scikit-learn has them; where there are none, of one, as in Chinese
# that a tokenizer has taken apart.
_WORDS = (r"(?u)\b\w\w+\b", r"(?u)\b\w+\b")

Labelled = tuple[Sequence[str], np.ndarray]
"""Texts, and what each is labelled with."""


def class_by_words(train: Labelled, texts: Sequence[str]) -> np.ndarray:
    """The class of each text, (N,), by logistic regression."""
    _, label_N = train
    if len(np.unique(label_N)) == 1:  # nothing to learn, and no regression to fit
        return np.full(len(texts), label_N[0])
    return _told(_regression(), train, texts)


def classes_by_words(train: Labelled, texts: Sequence[str]) -> np.ndarray:
    """Which classes each text has, flags (N, C), by a logistic regression for each class."""
    from sklearn.multioutput import MultiOutputClassifier

    _, label_NC = train
    is_learned_C = np.ptp(label_NC, axis=0) > 0  # not the same for all texts
    told_NC = np.broadcast_to(label_NC[0], (len(texts), label_NC.shape[1])).copy()
    if is_learned_C.any():
        chosen = (train[0], label_NC[:, is_learned_C])
        told_NC[:, is_learned_C] = _told(MultiOutputClassifier(_regression()), chosen, texts)
    return told_NC


def number_by_words(train: Labelled, texts: Sequence[str]) -> np.ndarray:
    """The number of each text, (N,), by ridge regression."""
    from sklearn.linear_model import Ridge

    return _told(Ridge(alpha=1.0), train, texts)


def _regression() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=10.0, max_iter=200)


def _told(learner: Any, train: Labelled, texts: Sequence[str]) -> np.ndarray:
    """What a model tells of texts by their words and pairs of words, weighed by TF-IDF."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    known, label = train
    pattern = next((one for one in _WORDS if any(map(re.compile(one).search, known))), None)
    if pattern is None:  # signs alone: nothing but the labels is learned
        learner.fit(np.zeros((len(known), 1)), label)
        return np.asarray(learner.predict(np.zeros((len(texts), 1))))
    words = TfidfVectorizer(
        ngram_range=(1, 2), token_pattern=pattern, sublinear_tf=True, dtype=np.float32
    )
    learner.fit(words.fit_transform(known), label)
    return np.asarray(learner.predict(words.transform(texts)))
