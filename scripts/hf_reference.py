"""Record what the models of Hugging Face transformers answer, for the tests of our own.

    .venv-hf/bin/python scripts/hf_reference.py --out tests/golden/hf [--case NAME ...]

The interpreter is the one with torch that scripts/setup_hf.sh makes. Every case is a small model
with the weights of a manifest (tests/hf/random_weights.py), answering in float64 what is recorded
and in float32 how much that type alone changes. OUT/NAME holds config.json, manifest.json and
reference.npz; --checkpoints DIR keeps the model folders too.
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from hf_reference_case import Case
from hf_reference_cases import CASES, LOSSES
from hf_reference_greedy import continuations
from hf_reference_legacy import legacy_config
from hf_reference_models import (
    Float32IsFloat64,
    dump_json,
    edit_config,
    gradient_norms,
    load,
    quiet,
    write_folder,
)
from hf_reference_tasks import TASKS, Batch
from torch import Tensor

UPDATES = 6
ZERO = 1e-12  # a norm below is rounding: softmax forgets what it adds to all scores of a query


def record(case: Case, folder: Path, out: Path) -> None:
    """Writes the case's model folder, and its reference to out."""
    manifest = write_folder(folder, case)
    config = getattr(transformers, case.architecture).config_class.from_pretrained(folder)
    batch = TASKS[case.task].make_batch(config)
    single = answers(case, load(folder, case.architecture, torch.float32), batch)
    with Float32IsFloat64():
        model = load(folder, case.architecture, torch.float64)
        greedy = continuations(model, case.prompt_lengths) if case.prompt_lengths else {}
        double = answers(case, model, batch)
    assert double["grad_norms"].keys() == manifest.keys(), "saving the gradients lost some"
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "config.json", out / "config.json")
    dump_json(out / "manifest.json", manifest)
    inputs = {name: _array(value, np.float32) for name, value in batch.items()}
    np.savez_compressed(out / "reference.npz", **inputs, **compare(double, single), **greedy)
    record_legacy_config(case, folder, out, batch, single["outputs"])


def record_legacy_config(
    case: Case, folder: Path, out: Path, batch: Batch, outputs: dict[str, np.ndarray]
) -> None:
    """Writes config_legacy.json for the families that have one, once it gave the same outputs."""
    path = folder / "config.json"
    new = path.read_text(encoding="utf-8")
    old = legacy_config(json.loads(new))
    if old is None:
        return
    edit_config(folder, lambda _: old)
    shutil.copy(path, out / "config_legacy.json")
    _, answer = TASKS[case.task].run(load(folder, case.architecture, torch.float32), batch)
    path.write_text(new, encoding="utf-8")
    for name, value in outputs.items():
        assert np.array_equal(_array(answer[name], np.float64), value), f"{name} differs"


def answers(case: Case, model: Any, batch: Batch) -> dict[str, Any]:
    """The loss, the outputs, the norms of the gradients and a few updates; changes the model."""
    batch = {key: x.to(model.dtype) if x.is_floating_point() else x for key, x in batch.items()}
    loss, outputs = TASKS[case.task].run(model, batch)
    loss.backward()
    return {
        "loss": float(loss.detach()),
        "outputs": {name: _array(value, np.float64) for name, value in outputs.items()},
        "grad_norms": gradient_norms(model),
        "adamw_losses": adamw_losses(case, model, batch),
    }


def compare(double: dict[str, Any], single: dict[str, Any]) -> dict[str, np.ndarray]:
    """The float64 answers, and beside each how far float32 is from it.

    Of gradients that is the largest of all tensors: relative to the norm, and for those whose
    gradient is zero what float32 makes of it. A single norm may well round to the exact one.
    """
    reference = {"loss": np.array(double["loss"])}
    reference["noise_loss"] = np.array(abs(double["loss"] - single["loss"]))
    reference["adamw_losses"] = double["adamw_losses"]
    reference["noise_adamw_losses"] = np.abs(double["adamw_losses"] - single["adamw_losses"]).max()
    for name, exact in double["outputs"].items():
        assert np.isfinite(exact).all(), f"{name} is not finite"
        reference[name] = exact.astype(np.float32)
        reference[f"noise_{name}"] = np.abs(exact - single["outputs"][name]).max()
    norms = {k: norm if norm > ZERO else 0.0 for k, norm in double["grad_norms"].items()}
    errors = {name: abs(single["grad_norms"][name] - norm) for name, norm in norms.items()}
    reference["grad_norms"] = np.array(json.dumps(norms))
    relative = [errors[name] / norm for name, norm in norms.items() if norm]
    reference["noise_grad_norms"] = np.array(max(relative))
    of_zeros = [errors[name] for name, norm in norms.items() if not norm]
    reference["noise_zero_grad_norms"] = np.array(max(of_zeros, default=0.0))
    return reference


def adamw_losses(case: Case, model: Any, batch: Batch) -> np.ndarray:
    """The losses before each of a few updates on the batch; changes the model.

    Matrices and embeddings decay, as is usual; biases, scales and single vectors do not.
    """
    groups: dict[bool, list] = {True: [], False: []}
    for parameter in model.parameters():
        # An image's class token is a vector, whatever its shape.
        groups[parameter.ndim >= 2 and parameter.shape[:2] != (1, 1)].append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": group, "weight_decay": 0.1 * decays} for decays, group in groups.items()],
        lr=1e-3,
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    losses = []
    for _ in range(UPDATES):
        optimizer.zero_grad()
        loss, _ = TASKS[case.task].run(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return np.array(losses)


def _array(value: Tensor, floats: type) -> np.ndarray:
    return value.detach().numpy().astype(floats if value.is_floating_point() else np.int32)


def main() -> None:
    """Reads the command line and records the cases it names, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    known = CASES | LOSSES
    parser.add_argument("--case", nargs="*", choices=sorted(known), default=list(CASES))
    parser.add_argument("--checkpoints", type=Path, help="keep the model folders here")
    arguments = parser.parse_args()
    quiet()
    for name in arguments.case:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as scratch:
            folder = (arguments.checkpoints or Path(scratch)) / name
            record(known[name], folder, arguments.out / name)
        size = sum(path.stat().st_size for path in (arguments.out / name).iterdir())
        print(f"{name}: {size / 1024:.0f} KB, {time.perf_counter() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
