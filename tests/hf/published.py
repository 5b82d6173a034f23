"""Recorded answers of transformers, and the models that gave them: tests/golden/hf.

Weights are not recorded but made anew from their names. B rows, T length.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxllm.hf.registry import family_of
from jaxllm.hf.weights import load
from jaxllm.nn.param import spec_dict

from . import random_weights

GOLDEN = Path(__file__).parents[1] / "golden" / "hf"

LOSSES = GOLDEN.with_name("hf_losses")
"""Other losses of the same networks."""

# Two float32 programs differ from float64, and from each other, by about one noise.
NOISES = 20


class InMemory(NamedTuple):
    """A tensor where a loader expects one on disk."""

    values: np.ndarray
    problem = None

    @property
    def shape(self):
        return self.values.shape

    def read(self, box):
        return self.values[(..., *box)]


class Published(NamedTuple):
    """A recorded model. theirs: its tensors under its own names. module: ours, abstract."""

    name: str
    raw: dict[str, Any]
    family: Any
    config: Any
    module: Any
    specs: Any
    rows: list
    theirs: dict[str, np.ndarray]
    reference: dict[str, np.ndarray]

    def noise(self, output):
        """How far float32 may be from the recorded float64."""
        return NOISES * float(self.reference[f"noise_{output}"])

    def load(self, theirs=None, **options):
        """Our weights, of these tensors or of its own."""
        given = self.theirs if theirs is None else theirs
        return load(
            {name: InMemory(values) for name, values in given.items()},
            folder=GOLDEN / self.name,
            specs=self.specs,
            rows=self.rows,
            ignored=self.family.ignored(self.config),
            **options,
        )

    def write(self, folder):
        """The model as a folder."""
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(self.raw), encoding="utf-8")
        random_weights.write_safetensors(folder / "model.safetensors", self.theirs)
        return folder


def names(*model_types):
    """The recorded cases of these families, of all without any."""
    return [
        path.name
        for path in sorted(GOLDEN.iterdir())
        if not model_types or read(path.name)["model_type"] in model_types
    ]


def read(name, file="config.json", *, golden=GOLDEN):
    """A recorded JSON file; None if the case has none of that name."""
    path = golden / name / file
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


@cache
def published(name, *, golden=GOLDEN):
    """The recorded model of a name."""
    raw = read(name, golden=golden)
    family = family_of(raw, name=name)
    config = family.read_config(raw, name=name)
    size = getattr(config, "vocab_size", None)
    module = jax.eval_shape(lambda: config.build(jax.random.key(0), size))
    return Published(
        name,
        raw,
        family,
        config,
        module,
        spec_dict(module),
        family.rows(config),
        random_weights.fill(read(name, "manifest.json", golden=golden)),
        dict(np.load(golden / name / "reference.npz")),
    )


def grad_norms(case, which="grad_norms"):
    """The recorded norms of gradients by their names."""
    return json.loads(str(case.reference[which]))
