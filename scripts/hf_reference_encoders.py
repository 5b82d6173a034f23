"""The families that hf_reference.py records beside the decoders: encoders, vision, translators."""

from hf_reference_case import Case

SIZES = {
    "hidden_size": 36,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "intermediate_size": 52,
    "layer_norm_eps": 3e-5,
}
BERT = SIZES | {"vocab_size": 97, "max_position_embeddings": 40, "pad_token_id": 0}
# RoBERTa counts positions from the padding token's number + 1, and has one type only.
ROBERTA = BERT | {"pad_token_id": 1, "bos_token_id": 0, "type_vocab_size": 1}


def encoder(architecture: str, task: str, config: dict) -> Case:
    """A model that reads a whole text or image and writes nothing."""
    return Case(architecture, task, config, prompt_lengths=())


TEXT_ENCODERS = {
    "bert_masked_lm": encoder("BertForMaskedLM", "masked_lm", BERT),
    "bert_pretraining": encoder("BertForPreTraining", "pretraining", BERT),
    "bert_sequence": encoder("BertForSequenceClassification", "sequence", BERT | {"num_labels": 4}),
    "bert_token": encoder(
        "BertForTokenClassification", "token", BERT | {"num_labels": 5, "hidden_act": "gelu_new"}
    ),
    "bert_qa": encoder("BertForQuestionAnswering", "question_answering", BERT),
    "bert_pooler": encoder("BertModel", "text_model", BERT),
    "roberta_masked_lm": encoder("RobertaForMaskedLM", "masked_lm", ROBERTA),
    "roberta_sequence": encoder(
        "RobertaForSequenceClassification", "sequence", ROBERTA | {"num_labels": 4}
    ),
    "roberta_token": encoder("RobertaForTokenClassification", "token", ROBERTA | {"num_labels": 5}),
    "roberta_qa": encoder("RobertaForQuestionAnswering", "question_answering", ROBERTA),
    "roberta_model": encoder("RobertaModel", "text_model", ROBERTA),
}

# Other losses of the same head; recorded in a folder of their own (--out tests/golden/hf_losses).
LOSSES = {
    "bert_multi_label": encoder(
        "BertForSequenceClassification",
        "multi_label",
        BERT | {"num_labels": 4, "problem_type": "multi_label_classification"},
    ),
    "roberta_regression": encoder(
        "RobertaForSequenceClassification",
        "regression",
        ROBERTA | {"num_labels": 1, "problem_type": "regression"},
    ),
}

CLIP_TEXT = SIZES | {"vocab_size": 97, "max_position_embeddings": 24, "projection_dim": 20}
CLIP_VISION = SIZES | {"hidden_size": 40, "num_attention_heads": 4, "num_hidden_layers": 2}
CLIP_VISION |= {"image_size": 24, "patch_size": 8, "projection_dim": 20}


def clip(text: dict, act: str) -> Case:
    """Two towers; text holds the special tokens."""
    act_keys = {"hidden_act": act}
    towers = {"text_config": CLIP_TEXT | text | act_keys, "vision_config": CLIP_VISION | act_keys}
    return encoder("CLIPModel", "clip", towers | {"projection_dim": 20})


VISION = {
    "vit": encoder(
        "ViTForImageClassification",
        "image_classification",
        SIZES | {"image_size": 24, "patch_size": 8, "num_labels": 5},
    ),
    "vit_model": encoder(
        "ViTModel",
        "image_model",
        SIZES | {"image_size": 20, "patch_size": 5, "qkv_bias": False, "hidden_act": "gelu_new"},
    ),
    # Padding is the end token too, so its first place counts; words have higher numbers than it.
    "clip": clip({"bos_token_id": 1, "eos_token_id": 50, "pad_token_id": 50}, "quick_gelu"),
    # The first configs named a wrong end token, 2, and mean: the token with the highest number.
    "clip_legacy_eos": clip({"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}, "gelu"),
}

MARIAN = {
    "vocab_size": 97,
    "max_position_embeddings": 64,
    "d_model": 36,
    "encoder_layers": 3,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 52,
    "decoder_layers": 2,
    "decoder_attention_heads": 3,
    "decoder_ffn_dim": 60,
    "activation_function": "relu",
    "scale_embedding": True,
    "pad_token_id": 96,
    "decoder_start_token_id": 96,
    "eos_token_id": 0,
    "forced_eos_token_id": 0,
}
T5 = {
    "vocab_size": 97,
    "d_model": 36,
    "d_kv": 8,
    "d_ff": 52,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 6,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "layer_norm_epsilon": 3e-5,
    "decoder_start_token_id": 0,
}
# T5 does not divide its scores by the head's size: its queries are small instead.
T5_STDS = {r"Attention\.q\.": 0.06, "relative_attention_bias": 0.5}


def seq2seq(architecture: str, config: dict, stds: dict[str, float], **settings: object) -> Case:
    """An encoder and a decoder that reads it."""
    return Case(architecture, "seq2seq", config, stds, **settings)


SEQ2SEQ = {
    "marian": seq2seq("MarianMTModel", MARIAN, {"final_logits_bias": 0.3}),
    "marian_swish": seq2seq(
        "MarianMTModel",
        MARIAN | {"activation_function": "swish", "decoder_attention_heads": 6},
        {"final_logits_bias": 0.3},
    ),
    # Its outputs are divided by sqrt(d_model) before the tied head, hence large embeddings.
    "t5": seq2seq("T5ForConditionalGeneration", T5, T5_STDS | {"shared": 1.0}),
    # transformers takes every T5 for tied until it finds both tensors in the file, and would
    # leave the head out of an untrained model's file; configs of this version say it is not tied.
    "t5_v1_1": seq2seq(
        "T5ForConditionalGeneration",
        T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        T5_STDS,
        more_tensors={"lm_head.weight": (97, 36)},
        more_config={"tie_word_embeddings": False},
    ),
}

ENCODERS = TEXT_ENCODERS | VISION | SEQ2SEQ
