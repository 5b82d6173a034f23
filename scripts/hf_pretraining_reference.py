"""Record what BertForPreTraining of transformers answers: both of its heads, and their loss.

    .venv-hf/bin/python scripts/hf_pretraining_reference.py --out tests/golden/hf_pretraining

As hf_reference.py, for the one model with two heads. OUT/bert has what a case has there.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from hf_reference import record
from hf_reference_encoders import BERT, encoder
from hf_reference_models import quiet
from hf_reference_tasks import TASKS, Answer, Batch, Task, masked_texts, unpadded

# Whether the second text is another than the one that follows, of each row.
IS_OTHER = (0, 1, 1)


def make_batch(config: Any) -> Batch:
    """Texts with hidden tokens, and whether their halves belong together."""
    return masked_texts(config) | {"next_sentence_label": torch.tensor(IS_OTHER)}


def run(model: Any, batch: Batch) -> Answer:
    """The logits of both heads and transformers' own loss, which is the sum of two."""
    answer = model(**batch)
    return answer.loss, {
        "prediction_logits": unpadded(answer.prediction_logits, batch["attention_mask"]),
        "seq_relationship_logits": answer.seq_relationship_logits,
    }


def main() -> None:
    """Reads the command line and records the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    quiet()
    TASKS["pretraining"] = Task(make_batch, run)
    with tempfile.TemporaryDirectory() as scratch:
        case = encoder("BertForPreTraining", "pretraining", BERT)
        record(case, Path(scratch) / "bert", arguments.out / "bert")


if __name__ == "__main__":
    main()
