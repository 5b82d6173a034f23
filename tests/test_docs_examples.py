"""The parts that the pages under docs/extending show in full do what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny
from documents import ROOT, lines
from objectives.test_causal_lm import Fixed, logits_for

from jaxllm.data.corpus import gather_parts, read_part
from jaxllm.data.labelled_texts import LabelledTextsConfig
from jaxllm.data.tokenizer import ByteTokenizer
from jaxllm.evaluation import Predicted
from jaxllm.generation import BeamSearch
from jaxllm.objectives import CausalLm, SequenceRegression, Vocabulary
from jaxllm.optim.schedules import Constant
from jaxllm.parallel.axes import WeightSpec
from jaxllm.parallel.mesh import ParallelConfig


def shown(page: str) -> dict:
    """What the first Python block of a page defines."""
    path = ROOT / "docs" / "extending" / page
    found = [(number, line) for number, line, language in lines(path) if language == "python"]
    first = found[0][0]
    block = [line for place, (number, line) in enumerate(found) if number == first + place]
    names: dict = {"__name__": path.stem}
    exec(compile("\n".join(block), str(path), "exec"), names)
    return names


def test_the_optimizer_steps_by_signs_and_decays_matrices():
    specs = {
        "matrix": WeightSpec((2, 2), ("embed", "mlp"), "hidden", (0,), (1,)),
        "bias": WeightSpec((2,), ("mlp",), "bias"),
    }
    params = {"matrix": jnp.full((2, 2), 10.0), "bias": jnp.full(2, 10.0)}
    gradients = {"matrix": jnp.asarray([[3.0, -1], [0, 7]]), "bias": jnp.asarray([-2.0, 5])}
    signum = shown("optimizer.md")["Signum"](
        learning_rate=0.5, schedule=Constant(), weight_decay=0.1
    )
    optimizer = signum.build(specs, total_steps=10)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    # Powers of two and small integers: exact in float32, but for the decay of a tenth.
    np.testing.assert_allclose(updates["matrix"], [[-1.0, 0], [-0.5, -1]], atol=1e-6)
    np.testing.assert_array_equal(updates["bias"], [0.5, -0.5])


def test_the_corpus_yields_each_text_once_whatever_the_spans(tmp_path):
    texts = [f"text {number}\nof {number} lines" for number in range(20)]
    (tmp_path / "a").write_text("\n%\n".join(texts), encoding="utf-8")
    (tmp_path / "b").write_bytes(b"good\n%\n\xff\n%\nbetter")
    config = shown("data_source.md")["FortuneCorpusConfig"](paths=[str(tmp_path / "*")])
    corpus = config.build()
    for span_bytes in (1, 50, 10**6):
        spans = [span for source in corpus.sources() for span in corpus.scan(source, span_bytes)]
        found = []
        for part in gather_parts(spans, span_bytes):
            found += [record for _, record in read_part(corpus, part, validation_every=0)]
        assert [getattr(record, "text", None) for record in found] == [
            *texts,
            "good",
            None,
            "better",
        ]
        assert str(found[-2]).startswith(f"{tmp_path}/b:2: not UTF-8")


def test_the_objective_is_cross_entropy_at_gamma_0_and_less_above():
    batch = tiny.batch(rows=3, scored=[16, 5, 0])
    logits = logits_for(batch)
    objective = shown("objective.md")["FocalLm"]
    plain, expected = objective(gamma=0)(Fixed(logits), batch), CausalLm()(Fixed(logits), batch)
    np.testing.assert_array_equal(
        jax.tree.leaves(plain._replace(router=None)), jax.tree.leaves(expected)
    )
    focal = objective(gamma=2)(Fixed(logits), batch)
    assert 0 < focal.loss < plain.loss
    assert (focal.nll, focal.num_tokens) == (plain.nll, plain.num_tokens)
    assert objective().batch_fields == CausalLm().batch_fields
    vocabulary = Vocabulary(9, special_ids=(0,))
    assert objective().num_ids(vocabulary) == 9
    assert objective().arrangement(vocabulary, seed=0) is None
    assert not objective().is_likelihood_of_text


def test_the_task_tells_stars():
    source = {"type": "jsonl", "paths": ["a.jsonl"]}
    stars = shown("task.md")["Stars"](
        SequenceRegression(),
        None,
        dataset=LabelledTextsConfig.model_validate({"source": source, "label_kind": "number"}),
        tokenizer=ByteTokenizer(),
        layout=ParallelConfig(layout="replicated").build(jax.devices()[:1]),
        rows=4,
        length=8,
        search=BeamSearch(),
    )
    label, value = np.float32([1, 2, 5, 4]), np.float32([1.5, 2.6, 4.5, 4])
    figures = stars.figures([Predicted(None, {"label": label, "value": value}, None)])
    assert figures.record("validation_") == {"validation_within_half": 0.75}
    assert figures.describe() == "within half a star 0.7500"
    parts = [{"value": np.float32(one)} for one in (4.0, 5.0, 5.0)]
    assert stars.answer(parts, None, [0, 1, 2]) == {"stars": 5}
    assert stars.answer([{"value": np.float32(-3)}], None, [0]) == {"stars": 1}
