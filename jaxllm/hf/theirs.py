"""A config.json of theirs, read so that nothing in it is ignored."""

from collections.abc import Mapping, Set
from typing import Any

REQUIRED: Any = object()

# Keys of any config.json that say nothing about what the network computes.
INERT = frozenset(
    (
        "_commit_hash _name_or_path _num_labels architectures attention_dropout "
        "attention_probs_dropout_prob attn_pdrop auto_map bad_words_ids begin_suppress_tokens "
        "bos_token bos_token_id chunk_size_feed_forward classifier_dropout "
        "classifier_dropout_prob cross_attention_hidden_size custom_pipelines "
        "decoder_start_token_id diversity_penalty do_sample dropout dtype early_stopping "
        "embd_pdrop encoder_no_repeat_ngram_size eos_token eos_token_id "
        "exponential_decay_length_penalty finetuning_task forced_bos_token_id "
        "forced_eos_token_id gradient_checkpointing hidden_dropout hidden_dropout_prob "
        "id2label initializer_factor initializer_range is_decoder is_encoder_decoder "
        "is_llama_config keys_to_ignore_at_inference label2id language layerdrop "
        "length_penalty max_length max_sequence_length min_length model_type n_special name "
        "no_repeat_ngram_size num_beam_groups num_beams num_labels num_return_sequences "
        "output_attentions output_hidden_states output_router_logits output_scores "
        "pad_token_id predict_special_tokens prefix pretraining_tp problem_type pruned_heads "
        "remove_invalid_values repetition_penalty resid_pdrop return_dict "
        "return_dict_in_generate router_aux_loss_coef router_jitter_noise "
        "sbert_ce_default_activation_function sentence_transformers sep_token_id "
        "summary_activation summary_first_dropout summary_proj_to_labels summary_type "
        "summary_use_proj suppress_tokens task_specific_params temperature tf_legacy_loss "
        "tie_encoder_decoder tokenizer_class top_k top_p torch_dtype torchscript "
        "transformers.js_config transformers_version typical_p unk_token_id unsloth_fixed "
        "unsloth_version use_bfloat16 use_cache "
    ).split()
)

# Keys that count layers.
LAYERS = {"num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers"}
MAX_LAYERS = 10_000

# Keys that some files have beside those of their family, each with the value that changes nothing.
OFF = {
    "attention_bias": False,
    "full_attn_mod": 1,
    "interpolate_factor": 1,
    "lm_head_bias": False,
    "mlp_bias": False,
    "qkv_bias": False,
    "rope_interleaved": False,
    "shared_expert_intermediate_size": 0,
    "use_mrope": False,
}


class Theirs:
    """A config.json, which remembers what was read of it, so that nothing is ignored."""

    def __init__(self, raw: Mapping[str, Any], *, name: str):
        """name: what errors call it. head: ours, by the class that it names.

        ValueError for more layers than any model has: tables are made of each.
        """
        self.head: str | None = None
        self._raw = raw
        self._name = name
        self._known: set[str] = set()
        for key in LAYERS & raw.keys():
            if not isinstance(raw[key], int) or not 0 < raw[key] <= MAX_LAYERS:
                self.refuse(f"{key}={raw[key]!r} is no number of layers from 1 to {MAX_LAYERS}")

    def get(self, key: str, default: Any = REQUIRED) -> Any:
        """The value of a key; ValueError if it is missing and has no default.

        A key that is null is there: what it means is the family's to say.
        """
        self._known.add(key)
        if key not in self._raw and default is REQUIRED:
            raise ValueError(f"{self._name} has no {key!r}, which its model_type needs")
        return self._raw.get(key, default)

    def given(self, *keys: str, default: Any = REQUIRED) -> Any:
        """The value of the first of several spellings that is there."""
        self._known.update(keys)
        present = [key for key in keys if key in self._raw]
        return self.get(present[0] if present else keys[0], default)

    def expect(self, key: str, *allowed: Any, default: Any = REQUIRED) -> None:
        """ValueError unless the value is one that the network can express."""
        self._known.add(key)
        value = self._raw.get(key, allowed[0] if default is REQUIRED else default)
        if value not in allowed:
            choices = " or ".join(repr(choice) for choice in allowed)
            raise ValueError(
                f"{self._name}: {key}={value!r} cannot be expressed here, only {choices}"
            )

    def size(self, key: str, default: Any = REQUIRED) -> int:
        """The value of a key that is a positive whole number; ValueError if it is none."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self.refuse(f"{key}={value!r} is no positive whole number")
        return value

    def section(self, *keys: str) -> "Theirs":
        """A config inside of this one: the first of several spellings that is not null, or {}."""
        given = {key: self.get(key, None) for key in keys}
        name = next((key for key, value in given.items() if value is not None), keys[-1])
        return Theirs(given[name] or {}, name=f"{name} of {self._name}")

    def refuse(self, why: str) -> None:
        """ValueError with what cannot be expressed."""
        raise ValueError(f"{self._name}: {why}")

    def check_all_read(self, inert: frozenset[str]) -> None:
        """ValueError that names every key that nothing has read."""
        unknown = unknown_keys(self._raw, self._known | inert)
        if unknown:
            raise ValueError(
                f"{self._name} has keys that mean nothing here: "
                + ", ".join(f"{key}={self._raw[key]!r}" for key in unknown)
                + "; remove those that do not change what the network computes"
            )


class Listener(Theirs):
    """A config.json without keys, which refuses nothing: what a family asks for is its known keys.

    A number that must be there is 1.
    """

    def __init__(self) -> None:
        super().__init__({}, name="config.json")

    @property
    def known(self) -> frozenset[str]:
        """The keys that were asked for."""
        return frozenset(self._known)

    def get(self, key: str, default: Any = REQUIRED) -> Any:
        self._known.add(key)
        return 1 if default is REQUIRED else default

    def section(self, *keys: str) -> "Theirs":
        self._known.update(keys)
        return Listener()

    def refuse(self, why: str) -> None:
        pass


def unknown_keys(raw: Mapping[str, Any], known: Set[str]) -> list[str]:
    """The keys of a config.json that are neither known nor without a meaning; null says nothing."""
    unread = raw.keys() - known - INERT
    return sorted(key for key in unread if raw[key] not in (None, OFF.get(key)))
