"""RoBERTa (arXiv:1907.11692): BERT with other positions and other names of its heads."""

from typing import Any

from jaxllm.hf.base import Family, Rows
from jaxllm.hf.encoder_names import (
    OLDER,
    TEXT_FIELDS,
    TEXT_INERT,
    left_over,
    linear,
    norm,
    read_text,
    text_rows,
    write_labels,
)
from jaxllm.hf.theirs import Theirs
from jaxllm.models.encoder_config import EncoderConfig

_HEADS = {
    "RobertaModel": "pooler",
    "RobertaForMaskedLM": "masked_lm",
    "RobertaForSequenceClassification": "sequence",
    "RobertaForTokenClassification": "token",
    "RobertaForQuestionAnswering": "span",
}


def _rows(config: EncoderConfig) -> Rows:
    prefix = "" if config.head == "pooler" else "roberta."
    # The first layer of its classifier computes what BERT calls the pooler.
    pooler = "classifier.dense" if config.head == "sequence" else f"{prefix}pooler.dense"
    label_heads = {"span": "qa_outputs", "sequence": "classifier.out_proj"}
    return text_rows(
        prefix,
        (
            *linear("pooler.dense", pooler),
            *linear("vocabulary_head.dense", "lm_head.dense"),
            *norm("vocabulary_head.norm", "lm_head.layer_norm"),
            ("vocabulary_head.bias", "lm_head.bias", "V -> V"),
            *linear("label_head", label_heads.get(config.head, "classifier")),
        ),
    )


def _read(theirs: Theirs) -> dict[str, Any]:
    # The head has this nonlinearity whatever the blocks have.
    is_same = theirs.get("hidden_act", "gelu") == "gelu"
    padding_id = theirs.get("pad_token_id", 1)
    if padding_id is None:
        theirs.refuse("pad_token_id=null, but positions are counted from it")
    return {
        **read_text(theirs),
        "padding_id": padding_id,
        "head_activation": None if is_same else "gelu_exact",
    }


def _ignored(config: EncoderConfig) -> tuple[str, ...]:
    """The tied output's second copy, and BERT's pooler, which no head here reads."""
    more = (r"lm_head\.decoder\.(weight|bias)",) if config.head == "masked_lm" else ()
    pooler = (r"roberta\.pooler\.dense\.(weight|bias)",) if config.head == "sequence" else ()
    return (*left_over(config, "roberta."), *pooler, *more)


FAMILY = Family(
    model_type="roberta",
    architecture="RobertaModel",
    heads=_HEADS,
    config_type=EncoderConfig,
    fields=TEXT_FIELDS,
    fixed={"norm_position": "post", "norm": "layer", "use_bias": True, "is_gated": False},
    read=_read,
    write=lambda config: {
        "pad_token_id": config.padding_id,
        **write_labels(config.num_labels),
    },
    rows=_rows,
    inert=TEXT_INERT,
    ignored=_ignored,
    older=OLDER,
)
