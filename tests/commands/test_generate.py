import json

import pytest

from jaxllm.commands.generate import generate

GREEDY = {"temperature": 0.0, "max_tokens": 4}


def test_the_likeliest_tokens_are_the_same_each_time(finished, capsys):
    first = generate(finished, ["the ", "war"], sampling=GREEDY)
    assert capsys.readouterr().out == "".join(
        f"{prompt}{text}\n" for prompt, text in zip(["the ", "war"], first, strict=True)
    )
    assert generate(finished, ["the ", "war"], sampling=GREEDY) == first
    # What training showed at its end came from the same weights.
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["sample"] == "the " + first[0]


def test_a_seed_gives_its_text(finished):
    def drawn(seed):
        sampling = {"temperature": 2.0, "max_tokens": 16, "seed": seed}
        return generate(finished, ["the "], sampling=sampling)

    first = drawn(1)
    assert drawn(1) == first
    assert drawn(2) != first


def test_settings_out_of_range_are_named_as_options(finished):
    with pytest.raises(ValueError) as refused:
        generate(finished, [""], sampling={"temperature": -1, "top_p": 2, "max_tokens": 0})
    lines = str(refused.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["--temperature", "--top-p", "--max-tokens"]


def test_ids_without_a_tokenizer_have_no_text(uninterrupted):
    with pytest.raises(ValueError, match="was trained on ids without a tokenizer; it has no text"):
        generate(uninterrupted, [""], sampling=GREEDY)


def test_a_checkpoint_that_is_not_there_is_listed(finished):
    with pytest.raises(ValueError, match=r"no checkpoint of step 3; it has \[4, 6\]"):
        generate(finished, [""], sampling=GREEDY, step=3)
