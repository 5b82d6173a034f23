"""How well texts are translated: BLEU and chrF, by sacrebleu."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxllm.evaluation.extras import needs_finetune


class TranslationFigures(NamedTuple):
    """Figures of a corpus of translations, from 0 to 100; signature: how BLEU was computed.

    BLEU: Papineni et al. 2002, with the tokens of Post 2018 (arXiv:1804.08771); chrF: Popovic 2015.
    """

    bleu: float
    chrf: float
    signature: str

    def record(self, prefix: str) -> dict[str, float]:
        """The figures that are numbers, by name."""
        return {f"{prefix}bleu": self.bleu, f"{prefix}chrf": self.chrf}

    def describe(self) -> str:
        """The most telling ones in a line."""
        return f"BLEU {self.bleu:.2f}, chrF {self.chrf:.2f}"


def translation_figures(hypotheses: Sequence[str], references: Sequence[str]) -> TranslationFigures:
    """Of translations, each with its one reference. ValueError if sacrebleu is not installed."""
    assert len(hypotheses) == len(references)
    with needs_finetune("BLEU and chrF"):
        from sacrebleu.metrics import BLEU, CHRF
    bleu = BLEU()
    return TranslationFigures(
        bleu=bleu.corpus_score(hypotheses, [references]).score,
        chrf=CHRF().corpus_score(hypotheses, [references]).score,
        signature=str(bleu.get_signature()),
    )
