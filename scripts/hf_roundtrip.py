"""Check that transformers reads model folders that jaxllm wrote.

    .venv-hf/bin/python scripts/hf_roundtrip.py FOLDER ... [--same-as FOLDER]
        [--inputs NPZ | --tokens 5,6,7] [--dump DIR] [--labels no,yes] [--problem TYPE]

Each folder is loaded through the Auto class of its config's architecture, and no tensor may be
missing, unexpected or of another shape. --same-as wants every tensor of the loaded model to have
the type and the bits of that of another folder. --dump writes the outputs for the inputs
(input_ids, attention_mask, pixel_values, ... of an .npz, or one text) to DIR/NAME.npz, in float32.
--labels and --problem want these names of classes, in order, and this problem_type.
Exits with 1 if a folder is not right.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import safe_open

AUTO_CLASSES = (
    "AutoModelForCausalLM",
    "AutoModelForSeq2SeqLM",
    "AutoModelForMaskedLM",
    "AutoModelForPreTraining",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoModelForQuestionAnswering",
    "AutoModelForImageClassification",
    "AutoModel",
)
INPUTS = (
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "pixel_values",
    "decoder_input_ids",
)


def auto_class(folder: Path) -> Any:
    """The Auto class that makes the architecture named in config.json."""
    config = transformers.AutoConfig.from_pretrained(folder)
    (architecture,) = config.architectures
    for name in AUTO_CLASSES:
        auto = getattr(transformers, name)
        if type(config) in auto._model_mapping:
            # Some families have several classes for one purpose.
            found = auto._model_mapping[type(config)]
            found = found if isinstance(found, (tuple, list)) else (found,)
            if architecture in [one.__name__ for one in found]:
                return auto
    raise ValueError(f"no Auto class makes {architecture} of a {config.model_type} config")


def load(folder: Path) -> tuple[Any, list[str]]:
    """The model, in the type its config names, and what is wrong with the folder."""
    model, report = auto_class(folder).from_pretrained(
        folder,
        dtype="auto",
        attn_implementation="eager",
        experts_implementation="eager",
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    (architecture,) = model.config.architectures
    problems = [f"{kind}: {sorted(names)}" for kind, names in report.items() if names]
    if type(model).__name__ != architecture:
        problems.append(f"loads as {type(model).__name__}, not {architecture}")
    return model.eval(), problems


def differences(model: Any, other: Any) -> list[str]:
    """The tensors whose shape, type or bits differ between two loaded models."""
    ours, theirs = model.state_dict(), other.state_dict()
    found = [f"only in one: {name}" for name in sorted(ours.keys() ^ theirs.keys())]
    for name in sorted(ours.keys() & theirs.keys()):
        left, right = ours[name], theirs[name]
        if (left.dtype, left.shape) != (right.dtype, right.shape):
            found.append(
                f"{name}: {left.dtype} {list(left.shape)}, not {right.dtype} {list(right.shape)}"
            )
        elif not torch.equal(_bytes(left), _bytes(right)):
            found.append(f"{name}: other values")
    return found


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Its memory: equal numbers may differ in bits (the two zeros), and no NaN equals itself."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def types_on_disk(folder: Path) -> dict[str, str]:
    """Tensor name -> type, of all safetensors files of a folder."""
    types = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            names = file.keys()  # a method of the file, which is no mapping
            types |= {name: file.get_slice(name).get_dtype() for name in names}
    return types


def config_differences(folder: Path, other: Path) -> list[str]:
    """The keys of config.json whose values differ, but for the version that wrote it."""
    ours, theirs = (json.loads((f / "config.json").read_text("utf-8")) for f in (folder, other))
    keys = sorted((ours.keys() | theirs.keys()) - {"transformers_version"})
    missing = object()
    return [key for key in keys if ours.get(key, missing) != theirs.get(key, missing)]


def outputs(model: Any, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All tensors of the model's answer, by transformers' names."""
    tensors = {
        name: torch.from_numpy(value.astype(np.float32 if value.dtype.kind == "f" else np.int64))
        for name, value in inputs.items()
    }
    with torch.no_grad():
        answer = model.float()(**tensors)
    return {k: v.numpy() for k, v in answer.items() if isinstance(v, torch.Tensor)}


def print_notes(folder: Path, other: Path) -> None:
    """What may differ on disk between two folders that mean the same model."""
    ours, theirs = types_on_disk(folder), types_on_disk(other)
    notes = {
        "names": sorted(ours.keys() ^ theirs.keys()),
        "types": sorted(name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]),
        "config": config_differences(folder, other),
    }
    for kind, keys in notes.items():
        if keys:
            print(f"{folder.name}: note, other {kind} on disk: {', '.join(keys)}")


def check(folder: Path, arguments: argparse.Namespace) -> list[str]:
    """What is wrong with a folder; dumps what was asked for."""
    if arguments.same_as:
        print_notes(folder, arguments.same_as)
    try:
        model, problems = load(folder)
    except (RuntimeError, ValueError, OSError) as error:
        return [f"cannot be loaded: {error}"]
    if arguments.same_as:
        problems += differences(model, load(arguments.same_as)[0])
    names = ",".join(model.config.id2label[number] for number in sorted(model.config.id2label))
    if arguments.labels and arguments.labels != names:
        problems.append(f"its classes are {names}")
    if arguments.problem and arguments.problem != model.config.problem_type:
        problems.append(f"its problem_type is {model.config.problem_type}")
    if arguments.dump:
        arguments.dump.mkdir(parents=True, exist_ok=True)
        np.savez(arguments.dump / f"{folder.name}.npz", **outputs(model, arguments.inputs))
    return problems


def read_inputs(arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    """The inputs of --inputs or --tokens."""
    if arguments.tokens:
        return {"input_ids": np.array([[int(token) for token in arguments.tokens.split(",")]])}
    if arguments.inputs:
        with np.load(arguments.inputs) as file:
            return {name: file[name] for name in file.files if name in INPUTS}
    return {}


def main() -> int:
    """Checks the folders of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--same-as", type=Path, metavar="FOLDER")
    parser.add_argument("--inputs", type=Path, metavar="NPZ")
    parser.add_argument("--tokens")
    parser.add_argument("--dump", type=Path, metavar="DIR")
    parser.add_argument("--labels", metavar="NAMES")
    parser.add_argument("--problem", metavar="TYPE")
    arguments = parser.parse_args()
    arguments.inputs = read_inputs(arguments)
    if arguments.dump and not arguments.inputs:
        parser.error("--dump needs --inputs or --tokens")
    transformers.utils.logging.disable_progress_bar()
    is_right = True
    for folder in arguments.folders:
        problems = check(folder, arguments)
        is_right &= not problems
        print(f"{folder.name}: {'; '.join(problems) or 'ok'}")
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
