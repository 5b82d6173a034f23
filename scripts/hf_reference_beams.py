"""Record what transformers finds by beam search, for the tests of our own.

    .venv-hf/bin/python scripts/hf_reference_beams.py --out tests/golden/hf [--case NAME ...]

The models are those of scripts/hf_reference.py, in float64. Every source is searched alone.
OUT/NAME gets beams.npz: the sources, the settings, and the targets with their scores, best first.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hf_reference_cases import CASES
from hf_reference_greedy import padded
from hf_reference_models import Float32IsFloat64, load, quiet, write_folder
from torch import Tensor
from torch.overrides import TorchFunctionMode

NAMES = ("t5", "marian")
NUM_BEAMS = 4
LENGTHS = (3, 5, 9, 14)  # of the sources
SETTINGS = ((0.0, 12), (0.6, 5), (0.6, 12), (1.0, 12), (2.0, 12))  # length penalty, most new tokens
# Random weights hardly ever end a target: these tokens of what they write without an end do too.
STOPPING = (3, 5, 7)
# Scores closer than this could change places in float32, where sums of log p are off by about 1e-6.
MARGIN = 3e-5
NOTHING = -1e8  # transformers writes -1e9 where there is no target


class ClosestChoice(TorchFunctionMode):
    """Inside, `gap` is the least distance of neighbours among all that topk has chosen from.

    The order of all chosen ones counts, and the first one left out.
    """

    gap = float("inf")

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.topk:
            scores = args[0].sort(dim=-1, descending=True).values[..., : kwargs["k"] + 1]
            gaps = (scores[..., :-1] - scores[..., 1:])[scores[..., 1:] > NOTHING]
            self.see(gaps)
        return func(*args, **kwargs)

    def see(self, gaps: Tensor) -> None:
        """Keeps the least of these and of all before."""
        self.gap = min([self.gap, *gaps.abs().flatten().tolist()])


def record(name: str, out: Path) -> float:
    """Writes OUT/NAME/beams.npz; returns the closest choice."""
    with tempfile.TemporaryDirectory() as folder, Float32IsFloat64():
        torch.set_default_dtype(torch.float32)
        write_folder(Path(folder), CASES[name])
        torch.set_default_dtype(torch.float64)  # of numbers without a type, as forbidden scores
        model = load(Path(folder), CASES[name].architecture, torch.float64)
        for seed in range(100):
            answers, closest = searches(model, np.random.default_rng(seed))
            if closest > MARGIN and is_telling(answers):
                np.savez_compressed(out / name / "beams.npz", margin=np.array(closest), **answers)
                return closest
    raise AssertionError(f"{name}: no sources with clear and telling searches")


def searches(model: Any, random: np.random.Generator) -> tuple[dict[str, np.ndarray], float]:
    """Sources, settings and what was found, X settings x B sources x beams; the closest choice.

    Padding is forbidden and the end is forced, as the published settings of Marian have it, where
    the model's config says so.
    """
    config = model.config
    end, forced = config.eos_token_id, getattr(config, "forced_eos_token_id", None)
    forbidden = [] if forced is None else [config.pad_token_id]
    sources = [random.integers(4, config.vocab_size - 1, length) for length in LENGTHS]
    most = max(most for _, most in SETTINGS)
    options = {"eos_token_id": [end], "forced_eos_token_id": forced, "max_new_tokens": most}
    options["bad_words_ids"] = [[token] for token in forbidden] or None
    (endless, *_), _, _ = search(model, torch.from_numpy(sources[-1]), options)
    stops = sorted({end, *(endless[place] for place in STOPPING if place < len(endless))})
    options["eos_token_id"] = stops
    ids = np.full((len(SETTINGS), len(sources), NUM_BEAMS, most), -1, np.int16)
    scores = np.zeros(ids.shape[:-1])
    closest = float("inf")
    for place in np.ndindex(ids.shape[:2]):
        penalty, length = SETTINGS[place[0]]
        options |= {"length_penalty": penalty, "max_new_tokens": length}
        found, scores[place], gap = search(model, torch.from_numpy(sources[place[1]]), options)
        for row, target in zip(ids[place], found, strict=True):
            row[: len(target)] = target
        closest = min(closest, gap)
    return {
        "sources": padded(sources),
        "source_lengths": np.array(LENGTHS),
        "length_penalties": np.array([penalty for penalty, _ in SETTINGS]),
        "max_tokens": np.array([length for _, length in SETTINGS]),
        "stop_ids": np.array(stops),
        "forbidden_ids": np.array(forbidden, np.int64),
        "forced_ids": np.array([] if forced is None else [forced], np.int64),
        "ids": ids,
        "scores": scores,
    }, closest


def search(model: Any, source: Tensor, options: dict) -> tuple[list[list[int]], np.ndarray, float]:
    """The targets without start and stop, their scores, and the closest choice."""
    check, choices = type(model)._check_early_stop_heuristic, ClosestChoice()

    def seen(**state: Any) -> Tensor:
        best = state["running_beam_scores"][:, 0]
        length = state["cur_len"] - state["decoder_prompt_len"]
        gaps = best / length ** state["length_penalty"] - state["beam_scores"].min(dim=1).values
        choices.see(gaps[state["is_sent_finished"].all(dim=1)])
        return check(**state)

    model._check_early_stop_heuristic = seen
    with torch.no_grad(), choices:
        answer = model.generate(
            source[None],
            attention_mask=torch.ones_like(source)[None],
            num_beams=NUM_BEAMS,
            num_return_sequences=NUM_BEAMS,
            early_stopping=False,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
            **options,
        )
    targets = []
    for row in answer.sequences[:, 1:].tolist():
        stop = next((i for i, token in enumerate(row) if token in options["eos_token_id"]), None)
        targets.append(row[:stop])
    return targets, answer.sequences_scores.numpy(), choices.gap


def is_telling(answers: dict[str, np.ndarray]) -> bool:
    """Whether targets end early, late and between, and the best depend on the length penalty."""
    ids, most = answers["ids"], answers["max_tokens"][:, None, None]
    lengths = (ids >= 0).sum(axis=-1)
    is_late = lengths >= most - 1
    shares = np.array([is_late.mean(), (~is_late & (lengths > 0)).mean()])
    best = ids[:, :, 0]
    return bool((shares > 0.15).all() and (best[2] != best[-1]).any())


def main() -> None:
    """Reads the command line and records the cases it names, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--case", nargs="*", choices=sorted(CASES), default=NAMES)
    arguments = parser.parse_args()
    quiet()
    for name in arguments.case:
        print(f"{name}: closest choice {record(name, arguments.out):.1e}", flush=True)


if __name__ == "__main__":
    main()
