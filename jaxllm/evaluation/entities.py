"""How well entities are found: figures by seqeval (https://github.com/chakki-works/seqeval)."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxllm.evaluation.extras import needs_finetune


class EntityFigures(NamedTuple):
    """What came out of finding entities, of which one is right as a whole or not at all.

    precision, recall, f1: over all entities. by_type: the same of each type that occurs.
    """

    precision: float
    recall: float
    f1: float
    by_type: dict[str, dict[str, float]]

    def record(self, prefix: str) -> dict[str, float]:
        """The figures that are numbers, by name."""
        return {
            f"{prefix}precision": self.precision,
            f"{prefix}recall": self.recall,
            f"{prefix}f1": self.f1,
        }

    def describe(self) -> str:
        """The most telling ones in a line."""
        return f"F1 {self.f1:.4f}, precision {self.precision:.4f}, recall {self.recall:.4f}"


def entity_figures(right: Sequence[Sequence[str]], told: Sequence[Sequence[str]]) -> EntityFigures:
    """The figures of tags of words that were told, of texts of equal numbers of words.

    Tags as `conlleval` reads them: an I- that goes on with nothing begins an entity.
    """
    with needs_finetune("figures of entities"):
        from seqeval.metrics import sequence_labeling as metrics

    right, told = [list(one) for one in right], [list(one) for one in told]
    whole = metrics.precision_recall_fscore_support(
        right, told, average="micro", zero_division=0, warn_for=()
    )
    is_found = any(tag != "O" for tags in (*right, *told) for tag in tags)
    report = (
        metrics.classification_report(right, told, output_dict=True, zero_division=0)
        if is_found
        else {}
    )
    by_type = {
        type_: {
            "precision": float(figures["precision"]),
            "recall": float(figures["recall"]),
            "f1": float(figures["f1-score"]),
            "count": float(figures["support"]),
        }
        for type_, figures in report.items()
        if not type_.endswith(" avg")
    }
    precision, recall, f1 = (float(figure) for figure in whole[:3])
    return EntityFigures(precision, recall, f1, by_type)
