"""Check that PEFT reads an adapter that jaxllm wrote, and record what the model says with it.

    .venv-hf/bin/python scripts/hf_adapter.py BASE ADAPTER --inputs NPZ --dump NPZ

BASE is the folder of the model, ADAPTER that of the adapter. PEFT must find every tensor of the
file and no other, with the same bits. --dump writes the outputs for the inputs, in float32: those
with the adapter as they are named, and those after PEFT merged it with `merged_` before.
Exits with 1 if something is not right.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from hf_roundtrip import INPUTS, load, outputs
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file


def differences(model: PeftModel, folder: Path) -> list[str]:
    """What PEFT has of an adapter otherwise than its file."""
    found, written = (
        get_peft_model_state_dict(model),
        load_file(folder / "adapter_model.safetensors"),
    )
    problems = [f"only in one: {name}" for name in sorted(found.keys() ^ written.keys())]
    for name in sorted(found.keys() & written.keys()):
        if not torch.equal(found[name], written[name]):
            problems.append(f"{name}: other values")
    return problems


def answers(model: Any, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs with the adapter beside the weights, and in them."""
    beside = outputs(model, inputs)
    within = outputs(model.merge_and_unload(), inputs)
    return {**beside, **{f"merged_{name}": value for name, value in within.items()}}


def main() -> int:
    """Checks the folders of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path, metavar="BASE")
    parser.add_argument("adapter", type=Path, metavar="ADAPTER")
    parser.add_argument("--inputs", type=Path, metavar="NPZ", required=True)
    parser.add_argument("--dump", type=Path, metavar="NPZ", required=True)
    arguments = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    model, problems = load(arguments.base)
    model = PeftModel.from_pretrained(model, arguments.adapter).eval()
    problems += differences(model, arguments.adapter)
    with np.load(arguments.inputs) as file:
        inputs = {name: file[name] for name in file.files if name in INPUTS}
    np.savez(arguments.dump, **answers(model, inputs))
    print(f"{arguments.adapter.name}: {'; '.join(problems) or 'ok'}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
