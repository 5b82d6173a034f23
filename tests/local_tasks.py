"""Tasks of the lm-evaluation-harness on files of their own, which need no network."""

import json

import pytest

CHOICE = """
task: words_choice
dataset_path: json
dataset_kwargs:
  data_files: {{train: "{folder}/train.jsonl", validation: "{folder}/validation.jsonl"}}
  cache_dir: {folder}/cache
output_type: multiple_choice
training_split: train
validation_split: validation
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
target_delimiter: ""
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""
CONTINUE = """
task: words_continue
dataset_path: json
dataset_kwargs: {{data_files: "{folder}/validation.jsonl", cache_dir: "{folder}/cache"}}
output_type: generate_until
test_split: train
doc_to_text: "{{{{text}}}}"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs: {{until: ["\\n", "e"], max_gen_toks: 4, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
ROLLING = """
task: words_rolling
dataset_path: json
dataset_kwargs: {{data_files: "{folder}/validation.jsonl", cache_dir: "{folder}/cache"}}
output_type: loglikelihood_rolling
test_split: train
doc_to_text: ""
doc_to_target: "{{{{text}}}}{{{{choices[answer]}}}}"
metric_list:
  - {{metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}}
  - {{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}}
"""
DOCUMENTS = [
    {"text": "the war of ", "choices": ["peace", "law", "a"], "answer": 2},
    {"text": "people and the", "choices": [" congress", " people with the law"], "answer": 1},
    {"text": "a", "choices": [" a", " b", " c", " d"], "answer": 3},
    {"text": "with law for congress a the war of peace", "choices": [" and", " of"], "answer": 0},
    {"text": "law", "choices": ["the", " the"], "answer": 0},
]


def require_harness():
    """Skips the tests of a module where the harness is not installed."""
    pytest.importorskip("lm_eval", reason="needs the lm-evaluation-harness: pip install lm-eval")


def write(folder):
    """Three tasks on five documents, one of each kind of request."""
    for split in ("train", "validation"):
        lines = [json.dumps(document) for document in DOCUMENTS]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, text in (("choice", CHOICE), ("continue", CONTINUE), ("rolling", ROLLING)):
        (folder / f"{name}.yaml").write_text(text.format(folder=folder), encoding="utf-8")
    return folder
