import copy

import pytest

from jaxllm.config import apply_override, parse_config

RAW = {
    "run_dir": "runs/x",
    "model": {"num_layers": 2, "embed_dim": 32},
    "data": {
        "sequence_length": 16,
        "global_batch_size": 8,
        "tokenizer": {"type": "byte"},
        "datasets": {"web": {"type": "corpus", "corpus": {"type": "text", "paths": ["*.txt"]}}},
    },
    "optim": {"type": "adamw", "learning_rate": 0.01, "schedule": {"type": "cosine"}},
    "training": {"steps": 100},
}


def refusal(*overrides):
    changed = copy.deepcopy(RAW)
    for override in overrides:
        apply_override(changed, override)
    with pytest.raises(ValueError) as refused:
        parse_config(changed, origin="the file")
    return str(refused.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainig.steps=3", "trainig: unknown key; did you mean 'training'?"),
        ("model.num_layer=3", "model.num_layer: unknown key; did you mean 'num_layers'?"),
        # Inside a member of a union: the tag is no part of the path that is shown.
        ("optim.beta_1=0.5", "optim.beta_1: unknown key; did you mean 'beta1'?"),
        (
            "optim.schedule.warmup=5",
            "optim.schedule.warmup: unknown key; did you mean 'warmup_steps'?",
        ),
        # Inside the value of a dict, and inside a union in it.
        (
            "data.datasets.web.wieght=2",
            "data.datasets.web.wieght: unknown key; did you mean 'weight'?",
        ),
        (
            "data.datasets.web.corpus.path=x",
            "data.datasets.web.corpus.path: unknown key; did you mean 'paths'?",
        ),
        # A dataset may be called like a tag or a key.
        (
            "data.datasets.corpus={type: bin, vocab_size: 9, delimiter_id: 0}",
            "data.datasets.corpus.train: missing; File of the training tokens.",
        ),
        # A key of another section.
        ("learning_rate=0.1", "learning_rate: unknown key; did you mean 'optim.learning_rate'?"),
        ("steps=10", "steps: unknown key; did you mean 'training.steps' or 'profile.steps'?"),
        ("ema={}", "ema: unknown key; did you mean 'training.ema'?"),
        (
            "warmup_steps=1",
            "warmup_steps: unknown key; did you mean 'optim.schedule.warmup_steps'?",
        ),
        (
            "model.corpus=1",
            "model.corpus: unknown key; did you mean 'data.datasets.NAME.corpus'?",
        ),
        # A key of another kind of the same section.
        (
            "optim.momentum=0.5",
            "optim.momentum: unknown key; allowed here: beta1, beta2, clip_norm",
        ),
        ("model.type=llama", "model.type: 'llama' is none of decoder, encoder"),
        ("training.type=x", "training.type: unknown key; allowed here: anomalies, ema"),
        ("model.zzz=1", "model.zzz: unknown key; allowed here: activation, attention"),
        ("model.num_layers=three", "model.num_layers: given 'three'; input should be a valid int"),
        ("model.num_layers=1.5", "model.num_layers: given 1.5; input should be a valid integer"),
        ("model.num_layers=null", "model.num_layers: given None; input should be a valid integer"),
        ("model.num_layers=0", "model.num_layers: given 0; input should be greater than 0"),
        ("model.dropout=1", "model.dropout: given 1; input should be less than 1"),
        ("optim.learning_rate=.nan", "optim.learning_rate: given nan; input should be"),
        ("model.norm=batch", "model.norm: given 'batch'; input should be 'rms' or 'layer'"),
        ("model=null", "model: given None; input should be a section with keys"),
        ("model.moe=3", "model.moe: given 3; input should be a section with keys"),
        ("data.datasets=[1]", "data.datasets: given [1]; input should be a section with keys"),
        ("data.tokenizer=byte", "data.tokenizer: given 'byte'; input should be a section with"),
        ("samples.prompts=x", "samples.prompts: given 'x'; input should be a list"),
        ("metrics.loggers={a: 1}", "metrics.loggers: given {'a': 1}; input should be a list"),
        ("training={}", "training.steps: missing; Length of the run, in optimizer steps."),
        ("optim.type=adamm", "optim.type: 'adamm' is none of sgd, adagrad, adam, adamw"),
        (
            "optim={}",
            "optim.type: missing; it is one of sgd, adagrad, adam, adamw, adafactor, lion",
        ),
        (
            "data.datasets={web: {}}",
            "data.datasets.web.type: missing; it is one of corpus, prepared, bin, synthetic",
        ),
        ("metrics.loggers=[{}]", "metrics.loggers.0.type: missing; it is one of wandb, trackio"),
        ("data.datasets.web.weight=0", "data: every dataset has weight 0"),
        ("model.num_heads=3", "model: num_heads=3 does not divide embed_dim=32"),
        ("training.num_microbatches=3", "training.num_microbatches=3 does not divide"),
        ("optim.schedule.warmup_steps=100", "optim.schedule.warmup_steps is 100, but the run has"),
        (
            "model={positions: learned, max_length: 8}",
            "data.sequence_length is 16, but the model has 8 learned positions",
        ),
        ("seed=-1", "seed: given -1; input should be greater than or equal to 0"),
        (
            "metrics.loggers=[{type: wandb}]",
            "metrics.loggers.0.project: missing; The project in Weights & Biases",
        ),
    ],
)
def test_one_wrong_value_is_one_line_with_its_path(override, message):
    text = refusal(override)
    assert text.splitlines()[0] == "the file: 1 problem in the config"
    (line,) = text.splitlines()[1:]
    assert line.startswith("  " + message)


def test_every_problem_is_listed():
    text = refusal("model.num_layers=0", "optim.beta3=1", "training.steps=x", "fooo=1")
    assert "4 problems in the config" in text
    paths = {line.split(":")[0].strip() for line in text.splitlines()[1:]}
    assert paths == {"model.num_layers", "optim.beta3", "training.steps", "fooo"}


def test_sections_that_do_not_fit_are_listed_beside_wrong_values():
    text = refusal(
        "model.embed_dim=0",
        "training.num_microbatches=3",
        "profile.start=99",
        "checkpoints.keep_best=1",
        "optim.schedule.warmup_steps=100",
    )
    assert "5 problems in the config" in text
    for line in (
        "model.embed_dim: given 0",
        "training.num_microbatches=3 does not divide data.global_batch_size=8",
        "profile.start=99 and",
        "checkpoints.keep_best=1 needs",
        "optim.schedule.warmup_steps is 100",
    ):
        assert f"\n  {line}" in text


def test_a_section_that_is_wrong_by_itself_is_compared_with_none():
    text = refusal("training.steps=0", "training.num_microbatches=3", "fooo=1")
    paths = {line.split(":")[0].strip() for line in text.splitlines()[1:]}
    assert paths == {"training.steps", "fooo"}
