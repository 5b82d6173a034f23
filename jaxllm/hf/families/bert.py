"""BERT (arXiv:1810.04805), and what was distilled from it, such as MiniLM."""

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
from jaxllm.models.encoder_config import EncoderConfig

_HEADS = {
    "BertModel": "pooler",
    "BertForMaskedLM": "masked_lm",
    "BertForPreTraining": "pretraining",
    "BertForSequenceClassification": "sequence",
    "BertForTokenClassification": "token",
    "BertForQuestionAnswering": "span",
}


def _prefix(config: EncoderConfig) -> str:
    """The encoder is a part of its class only where that has a head."""
    return "" if config.head == "pooler" else "bert."


def _rows(config: EncoderConfig) -> Rows:
    prefix, vocabulary = _prefix(config), "cls.predictions"
    label_heads = {"span": "qa_outputs", "pretraining": "cls.seq_relationship"}
    return text_rows(
        prefix,
        (
            *linear("pooler.dense", f"{prefix}pooler.dense"),
            *linear("vocabulary_head.dense", f"{vocabulary}.transform.dense"),
            *norm("vocabulary_head.norm", f"{vocabulary}.transform.LayerNorm"),
            ("vocabulary_head.bias", f"{vocabulary}.bias", "V -> V"),
            *linear("label_head", label_heads.get(config.head, "classifier")),
        ),
    )


def _ignored(config: EncoderConfig) -> tuple[str, ...]:
    """The tied output's second copy, and the guess whether one sentence follows another."""
    copies, following = r"cls\.predictions\.decoder\.(weight|bias)", r"cls\.seq_relationship\..*"
    more = {"masked_lm": (copies, following), "pretraining": (copies,)}
    return (*left_over(config, "bert."), *more.get(config.head, ()))


FAMILY = Family(
    model_type="bert",
    architecture="BertModel",
    heads=_HEADS,
    config_type=EncoderConfig,
    fields=TEXT_FIELDS,
    fixed={"norm_position": "post", "norm": "layer", "use_bias": True, "is_gated": False},
    read=read_text,
    write=lambda config: write_labels(config.num_labels),
    rows=_rows,
    # Of poolers that no code has ever read.
    inert=TEXT_INERT
    | {
        "directionality",
        "pooler_fc_size",
        "pooler_num_attention_heads",
        "pooler_num_fc_layers",
        "pooler_size_per_head",
        "pooler_type",
    },
    ignored=_ignored,
    older=OLDER,
)
