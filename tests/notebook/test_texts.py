from jaxllm.evaluation import Score
from jaxllm.notebook.texts import Continuation, Samples, Scores
from jaxllm.reporting.run import Sample


def test_a_continuation_is_its_text_and_is_shown_with_its_prompt():
    text = Continuation(" of <all>", prompt="people & law")
    assert text == " of <all>"
    assert "<b>people &amp; law</b> of &lt;all&gt;" in text._repr_html_()


def test_samples_are_shown_with_their_steps():
    shown = Samples([Sample(80, "a", "b"), Sample(1160, "a", "<c>")])._repr_html_()
    assert "after 80 steps" in shown
    assert "after 1,160 steps" in shown
    assert "&lt;c&gt;" in shown


def test_scores_are_a_table_and_still_a_dict():
    scores = Scores({"old": Score(200.0, 100, 400), "ids": Score(10.0, 10, None)})
    assert scores["old"].loss == 2.0
    assert "<td>old</td><td>100</td><td>2.0000</td><td>7.39</td>" in scores._repr_html_()
    assert scores._repr_html_().count("<tr>") == 3
