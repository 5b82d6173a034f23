import json
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from jaxllm.commands.console import Console
from jaxllm.commands.evaluate import _figures_table, evaluate
from jaxllm.data import prepare_dataset
from jaxllm.data.text_corpus import TextCorpusConfig
from jaxllm.data.tokenizer import ByteTokenizerConfig
from jaxllm.evaluation import Predicted, Score, total

from . import runs


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")  # so that tables are not wrapped


def table_rows(text):
    """Cells of the table's rows by the first of them."""
    rows = [line.strip("│ \n").split("│") for line in text.splitlines() if line.startswith("│")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_the_end_of_training_is_scored_again_by_source_and_in_all(finished, capsys):
    scores = evaluate(finished)
    assert list(scores) == ["plain", "other"]
    summary = json.loads((finished / "summary.json").read_text())
    assert total(scores.values()).loss == summary["validation_loss"]
    assert total(scores.values()).bits_per_byte == summary["validation_bits_per_byte"]
    last = [record for record in runs.records(finished) if "validation_loss" in record][-1]
    rows = table_rows(capsys.readouterr().out)
    for name in ("plain", "other"):
        assert scores[name].loss == last[f"validation/{name}/loss"]
        assert rows[name][0] == f"{scores[name].num_tokens:,}"
        assert rows[name][2] == f"{scores[name].loss:.4f}"
    assert rows["all"][4] == f"{summary['validation_bits_per_byte']:.4f}"


def test_an_earlier_checkpoint_is_scored_by_its_step(finished):
    with pytest.raises(ValueError, match=r"has no checkpoint of step 5; it has \[4, 6\]"):
        evaluate(finished, step=5)
    earlier = total(evaluate(finished, step=4).values()).loss
    assert earlier > total(evaluate(finished).values()).loss


def test_text_of_ones_own_is_held_out_whole(finished, text, tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("peace and people", encoding="utf-8")
    (score,) = evaluate(finished, data=[str(file)]).values()
    # Every byte, and the delimiter that ends the document; the one that opens it is given.
    assert score.num_tokens == 16 + 1
    assert score.raw_bytes == 16


def test_a_dataset_folder_is_scored_if_the_tokenizer_is_the_runs(finished, text, tmp_path):
    texts = TextCorpusConfig(paths=(f"{text.parent}/b/*",))
    folder = prepare_dataset(
        texts, tokenizer=ByteTokenizerConfig(), root=tmp_path, name="again", validation_every=2
    )
    (score,) = evaluate(finished, data=[str(folder)]).values()
    assert score == evaluate(finished)["other"]
    card = folder / "tokens.json"
    card.write_text(card.read_text().replace(ByteTokenizerConfig().build().fingerprint, "0" * 64))
    with pytest.raises(ValueError, match="made with another tokenizer"):
        evaluate(finished, data=[str(folder)])


def test_data_of_no_known_kind_is_refused(finished):
    with pytest.raises(ValueError, match=r"--data notes\.md: give a dataset folder, or files that"):
        evaluate(finished, data=["notes.md"])
    with pytest.raises(ValueError, match=r"nowhere\.txt"):
        evaluate(finished, data=["nowhere.txt"])


def test_a_run_without_validation_data_says_what_to_give(uninterrupted):
    with pytest.raises(
        ValueError, match="has no validation split; give text or a dataset with --data"
    ):
        evaluate(uninterrupted)


def test_a_folder_without_a_checkpoint_is_told_to_train(uninterrupted, tmp_path):
    (tmp_path / "config.yaml").write_bytes((uninterrupted / "config.yaml").read_bytes())
    with pytest.raises(ValueError, match="has no checkpoint yet; train it first"):
        evaluate(tmp_path)


@dataclass
class Figures:
    """How many sets they are of."""

    count: int

    def record(self, prefix):
        return {f"{prefix}macro_f1": self.count / 4}


@pytest.mark.parametrize("is_of_text", [False, True])
def test_a_task_has_its_figures_and_a_perplexity_only_of_texts(is_of_text, capsys):
    doing = SimpleNamespace(is_of_text=is_of_text, figures=lambda sets: Figures(len(sets)))
    scores = {"one": Score(2.0, 4, None), "other": Score(1.0, 2, None)}
    predicted = {name: Predicted(score, {}, None) for name, score in scores.items()}
    table = _figures_table("run, step 1", doing, predicted)
    headings = ["source", "tokens", "loss", "perplexity", "macro f1"]
    if not is_of_text:
        headings = ["source", "scored", "loss", "macro f1"]
    assert [column.header for column in table.columns] == headings
    Console(is_shown=True).show(table)
    rows = table_rows(capsys.readouterr().out)
    perplexity = ["1.65"] if is_of_text else []  # exp(0.5)
    assert rows["one"] == ["4", "0.5000", *perplexity, "0.2500"]
    assert rows["all"] == ["6", "0.5000", *perplexity, "0.5000"]
