"""Pairs find each other, and texts end where the model looks for their end."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxllm.data.captions import CaptionsConfig
from jaxllm.data.text_pairs import TextPairsConfig
from jaxllm.data.tokenizer import ByteTokenizer
from jaxllm.evaluation import Predicted
from jaxllm.evaluation.retrieval import retrieval_figures
from jaxllm.objectives import Contrastive, ImageText
from jaxllm.parallel.mesh import ParallelConfig
from jaxllm.tasks.retrieval import Retrieval

SOURCE = {"type": "jsonl", "paths": ["none"]}
PAIRS = TextPairsConfig.model_validate({"source": SOURCE})
CAPTIONS = CaptionsConfig.model_validate({"source": SOURCE, "size": 8})


def task(objective, dataset, *, end_id=None):
    model = SimpleNamespace(config=SimpleNamespace(end_id=end_id))
    layout = ParallelConfig(layout="replicated").build()
    given = {"tokenizer": ByteTokenizer(), "layout": layout, "rows": 8, "length": 16}
    return Retrieval(objective, model, dataset=dataset, search=None, **given)


def predicted(names, sides):
    fields = dict(zip(names, sides, strict=True))
    return Predicted(None, fields, None)


@pytest.mark.parametrize(
    ("objective", "dataset", "names"),
    [
        (Contrastive(), PAIRS, ("embedding", "other_embedding")),
        (ImageText(), CAPTIONS, ("image_embedding", "embedding")),
    ],
)
def test_each_is_looked_for_among_all_sets(objective, dataset, names):
    sides = np.random.default_rng(0).normal(size=(2, 30, 4)).astype(np.float32)
    sets = [predicted(names, sides[:, :12]), predicted(names, sides[:, 12:])]
    found = task(objective, dataset).figures(sets)
    # float64 means of the same ranks
    np.testing.assert_allclose(found, retrieval_figures(*sides), rtol=1e-12)
    assert f"found first {found.recall_at_1:.4f}" in found.describe()


def test_the_answer_is_the_vector():
    vector = np.array([0.6, 0.8], np.float32)
    for objective, dataset, name in (
        (Contrastive(), PAIRS, "embedding"),
        (ImageText(), CAPTIONS, "image_embedding"),
    ):
        answer = task(objective, dataset).answer([{name: vector}], None, [0])
        assert answer == {"embedding": vector.tolist()}


def test_another_end_of_texts_is_refused():
    """The delimiter of bytes, 256, is also the highest token."""
    for end_id in (None, 256):
        task(ImageText(), CAPTIONS, end_id=end_id)
    with pytest.raises(ValueError, match=r"model\.end_id=7 looks for .* set model\.end_id=256"):
        task(ImageText(), CAPTIONS, end_id=7)
    task(Contrastive(), PAIRS, end_id=7)  # pairs of texts have nothing to do with it
