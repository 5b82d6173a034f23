"""A config.json of theirs, read so that nothing in it is ignored."""

from collections.abc import Mapping
from typing import Any

REQUIRED: Any = object()

# Keys of any config.json that say nothing about what the network computes.
INERT = frozenset(
    (
        "_name_or_path architectures attention_dropout attention_probs_dropout_prob attn_pdrop "
        "auto_map bos_token_id chunk_size_feed_forward classifier_dropout classifier_dropout_prob "
        "decoder_start_token_id dropout dtype embd_pdrop eos_token_id finetuning_task "
        "forced_bos_token_id forced_eos_token_id gradient_checkpointing hidden_dropout "
        "hidden_dropout_prob id2label initializer_factor initializer_range is_decoder "
        "is_encoder_decoder keys_to_ignore_at_inference label2id layerdrop max_length model_type "
        "num_beams output_attentions output_hidden_states output_router_logits pad_token_id "
        "pretraining_tp problem_type resid_pdrop return_dict router_aux_loss_coef "
        "router_jitter_noise sep_token_id summary_activation summary_first_dropout "
        "summary_proj_to_labels summary_type summary_use_proj task_specific_params "
        "tokenizer_class torch_dtype transformers_version unk_token_id unsloth_version "
        "use_cache "
    ).split()
)


class Theirs:
    """A config.json, which remembers what was read of it, so that nothing is ignored."""

    def __init__(self, raw: Mapping[str, Any], *, name: str):
        """name: what errors call it. head: ours, by the class that it names."""
        self.head: str | None = None
        self._raw = raw
        self._name = name
        self._known: set[str] = set()

    def get(self, key: str, default: Any = REQUIRED) -> Any:
        """The value of a key; ValueError if it is missing and has no default."""
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
        unknown = sorted(set(self._raw) - self._known - inert - INERT)
        if unknown:
            raise ValueError(
                f"{self._name} has keys that mean nothing here: "
                + ", ".join(f"{key}={self._raw[key]!r}" for key in unknown)
                + "; remove those that do not change what the network computes"
            )
