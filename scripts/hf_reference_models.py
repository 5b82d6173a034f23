"""Models of transformers with the weights of a manifest, for hf_reference.py. Needs torch."""

import copy
import importlib.util
import json
import logging
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from hf_reference_case import Case
from safetensors.numpy import load_file
from torch.overrides import TorchFunctionMode

ROOT = Path(__file__).parents[1]
# Embeddings are small, or models that reuse them as the head would only repeat their input.
MATRIX, VECTOR, EMBEDDING = 1.0, 0.1, 0.15
EMBEDDINGS = re.compile(
    r"embed|wte|wpe|\.shared\.|^shared\.|relative_attention_bias|cls_token|position_embedding"
)


def _random_weights() -> Any:
    """tests/hf/random_weights.py, which the tests read too and which belongs to no package."""
    path = ROOT / "tests" / "hf" / "random_weights.py"
    spec = importlib.util.spec_from_file_location("random_weights", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


random_weights = _random_weights()


class Float32IsFloat64(TorchFunctionMode):
    """Inside, whoever asks for float32 gets float64.

    transformers computes norms, softmax, routers and rotations in float32 whatever the model's
    type is, which would leave float32 errors in a run that is meant to have none.
    """

    def __enter__(self):
        # A class, which this mode does not see being called; Marian's positions are made by it.
        self._float_tensor, torch.FloatTensor = torch.FloatTensor, torch.DoubleTensor
        return super().__enter__()

    def __exit__(self, *error):
        torch.FloatTensor = self._float_tensor
        return super().__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        args = [torch.float64 if arg is torch.float32 else arg for arg in args]
        kwargs = {
            key: torch.float64 if value is torch.float32 else value
            for key, value in (kwargs or {}).items()
        }
        return (torch.Tensor.double if func is torch.Tensor.float else func)(*args, **kwargs)


def write_folder(folder: Path, case: Case) -> dict:
    """Writes config.json and model.safetensors as transformers would and returns the manifest."""
    architecture = getattr(transformers, case.architecture)
    model = architecture(architecture.config_class(**case.config))
    model.save_pretrained(folder)
    initial = load_file(folder / "model.safetensors")
    initial |= {name: np.zeros(shape, np.float32) for name, shape in case.more_tensors.items()}
    manifest = manifest_of(initial, case.stds)
    random_weights.write_safetensors(folder / "model.safetensors", random_weights.fill(manifest))
    if case.more_config:
        edit_config(folder, lambda config: config | case.more_config)
    return manifest


def edit_config(folder: Path, edit: Callable[[dict], dict]) -> None:
    """Rewrites config.json in the order and form of transformers."""
    path = folder / "config.json"
    config = edit(json.loads(path.read_text(encoding="utf-8")))
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def manifest_of(initial: dict[str, np.ndarray], stds: dict[str, float]) -> dict:
    """The distribution of every tensor, told from its name, shape and initial values.

    What starts at one (the scales of most norms, not Gemma's) keeps its center. stds replaces the
    spread of the tensors whose name its patterns find.
    """
    manifest = {}
    for name, values in sorted(initial.items()):
        assert values.dtype == np.float32, f"{name} is {values.dtype}"
        center = int(values.ndim == 0 or (values.ndim == 1 and bool((values == 1).all())))
        std = next((std for key, std in stds.items() if re.search(key, name)), None)
        manifest[name] = {
            "shape": list(values.shape),
            "center": center,
            "std": _spread(name, values.shape) if std is None else std,
        }
    return manifest


def _spread(name: str, shape: tuple[int, ...]) -> float:
    """Keeps activations near one, and moves biases and scales off their initial values."""
    if len(shape) < 2:
        return VECTOR
    if EMBEDDINGS.search(name) and len(shape) < 4:
        return EMBEDDING
    # GPT-2 alone stores its matrices as (in, out).
    is_transposed = re.search(r"\.(c_attn|c_fc|c_proj)\.weight$", name)
    fan_in = shape[0] if is_transposed else int(np.prod(shape[1:]))
    return round(MATRIX / fan_in**0.5, 4)


def load(folder: Path, architecture: str, dtype: torch.dtype) -> Any:
    """The model of a folder, all of it in dtype; call inside Float32IsFloat64 for float64."""
    model, report = getattr(transformers, architecture).from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation="eager",
        experts_implementation="eager",
        output_loading_info=True,
    )
    assert not any(report.values()), f"{folder}: {report}"
    strange = {name: p.dtype for name, p in model.named_parameters() if p.dtype != dtype}
    strange |= {
        name: b.dtype
        for name, b in model.named_buffers()
        if b.is_floating_point() and b.dtype != dtype
    }
    if dtype == torch.float64:
        assert not strange, f"not computed in {dtype}: {strange}"
    return model.eval()


def gradient_norms(model: Any) -> dict[str, float]:
    """The L2 norm of the gradient of every tensor on disk; 0 for what has none.

    A model whose parameters are the gradients is saved, so that transformers itself splits and
    names them as on disk; tied parameters appear once.
    """
    gradients = copy.deepcopy(model)
    sources = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in gradients.named_parameters():
            gradient = sources[name].grad
            parameter.copy_(torch.zeros_like(parameter) if gradient is None else gradient)
        for buffer in gradients.buffers():
            buffer.zero_()
    with tempfile.TemporaryDirectory() as folder:
        gradients.save_pretrained(folder)
        tensors = load_file(Path(folder) / "model.safetensors")
    return {
        name: float(np.linalg.norm(value.ravel().astype(np.float64)))
        for name, value in sorted(tensors.items())
    }


def quiet() -> None:
    """Keeps transformers' advice about unusual sizes and its progress bars off the screen."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)


def dump_json(path: Path, value: dict[str, dict]) -> None:
    """One line an entry."""
    lines = [f"  {json.dumps(key)}: {json.dumps(entry)}" for key, entry in value.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
