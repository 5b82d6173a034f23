"""What a model wrote, and how it scored, as a notebook shows them."""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

from jaxllm.evaluation import Score
from jaxllm.reporting.run import Sample

_TEXT = "white-space:pre-wrap;max-width:46em;line-height:1.5"


class Continuation(str):
    """The continuation of `prompt`; a notebook shows both, the prompt in bold."""

    prompt: str

    def __new__(cls, text: str, *, prompt: str = "") -> Self:
        made = super().__new__(cls, text)
        made.prompt = prompt
        return made

    def _repr_html_(self) -> str:
        begun = f"<b>{html.escape(self.prompt)}</b>" if self.prompt else ""
        return f'<div style="{_TEXT}">{begun}{html.escape(str(self))}</div>'


class Samples(tuple[Sample, ...]):
    """The texts that were generated while training, which a notebook shows step by step."""

    def _repr_html_(self) -> str:
        return "".join(
            f'<p style="{_TEXT}"><i>after {sample.step:,} steps</i><br>'
            f"<b>{html.escape(sample.prompt)}</b>{html.escape(sample.text)}</p>"
            for sample in self
        )


class Scores(dict[str, Score]):
    """The score of each validation set by name, which a notebook shows as a table."""

    def _repr_html_(self) -> str:
        heads = ("source", "tokens", "loss", "perplexity", "bits per byte")
        return table(heads, (self._row(name, score) for name, score in self.items()))

    @staticmethod
    def _row(name: str, score: Score) -> tuple[str, ...]:
        bits = score.bits_per_byte
        return (
            name,
            f"{score.num_tokens:,}",
            f"{score.loss:.4f}",
            f"{score.perplexity:.2f}",
            "" if bits is None else f"{bits:.4f}",
        )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table of plain texts."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(text)}</td>' for text in row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def facts(title: str, rows: Mapping[str, str]) -> str:
    """An HTML table of one thing: what each figure is, and the figure."""
    body = "".join(
        f'<tr><td style="text-align:left">{html.escape(name)}</td>'
        f'<td style="text-align:left">{html.escape(text)}</td></tr>'
        for name, text in rows.items()
    )
    return f"<b>{html.escape(title)}</b><table><tbody>{body}</tbody></table>"
