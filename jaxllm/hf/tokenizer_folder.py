"""The tokenizer files of a model's folder: which there are, and what they say of special tokens.

What overrides what is as in transformers 5. Only files of the folder are read: names that leave it,
by `..` or by a link, are refused. No code of a model is ever run.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxllm.data.chat_template import DEFAULT, named_templates
from jaxllm.containment import contained

if TYPE_CHECKING:
    from tokenizers import AddedToken

FLAGS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
SETTINGS, MODEL_SETTINGS = "tokenizer_config.json", "config.json"
GENERATION_SETTINGS = "generation_config.json"
TEMPLATE_FILE, TEMPLATE_FOLDER = "chat_template.jinja", "additional_chat_templates"

# What a folder may have of a tokenizer, beside vocabularies of a name of their own.
TOKENIZER_FILES = (
    "tokenizer.json",
    SETTINGS,
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    TEMPLATE_FILE,
)


@dataclass(frozen=True)
class SpecialTokens:
    """What a folder says of tokens beyond its vocabulary."""

    named: "Mapping[str, AddedToken | str]"
    """By role: bos_token and the like, and whatever else ends in `_token`."""
    listed: "Mapping[int, AddedToken]"
    """By id, which the vocabulary must confirm."""
    further: "tuple[AddedToken | str, ...]"
    """Special tokens without a role."""


class TokenizerFolder:
    """A folder as Hugging Face lays it out. Raises ValueError for one that is none."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser()
        if not self.path.is_dir():
            raise ValueError(f"{path} is no folder; give the folder of a model")
        self.settings = self.json(SETTINGS)
        self.model_settings = self.json(MODEL_SETTINGS)
        self.generation_settings = self.json(GENERATION_SETTINGS)

    @property
    def tokenizer_class(self) -> str | None:
        """The class that transformers would use, without `Fast`; None where nothing says."""
        name = self.settings.get("tokenizer_class") or self.model_settings.get("tokenizer_class")
        return name.removesuffix("Fast") if isinstance(name, str) else None

    @property
    def model_type(self) -> str | None:
        """The kind of model of config.json."""
        return self.model_settings.get("model_type")

    def find(self, name: str) -> Path | None:
        """A file of the folder, None if there is none. Raises ValueError for one outside of it."""
        path = contained(self.path, name)
        # Not Path.is_file, which raises OSError for a name that is too long.
        return path if os.path.isfile(path) else None

    def read(self, name: str) -> bytes | None:
        """The content of a file, None if there is none."""
        path = self.find(name)
        return path.read_bytes() if path else None

    def text(self, name: str) -> str | None:
        """The text of a file, None if there is none. Raises ValueError if it is not UTF-8."""
        content = self.read(name)
        try:
            return None if content is None else content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path / name} is not UTF-8 text: {error}") from error

    def json(self, name: str) -> dict[str, Any]:
        """The object of a JSON file, empty if there is no file. Raises ValueError for another."""
        content = self.read(name)
        if content is None:
            return {}
        try:
            value = json.loads(content)
        except ValueError as error:
            raise ValueError(f"{self.path / name} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise ValueError(f"{self.path / name} is a {type(value).__name__}, not an object")
        return value

    def names(self, pattern: str) -> list[str]:
        """The files that match, in order, relative to the folder."""
        found = sorted(path for path in self.path.glob(pattern) if path.is_file())
        return [path.relative_to(self.path).as_posix() for path in found]

    def flag(self, key: str, default: bool) -> bool:
        """A switch of tokenizer_config.json."""
        value = self.settings.get(key)
        return default if value is None else bool(value)

    def setting_id(self, key: str) -> tuple[tuple[int, ...], str]:
        """Token ids and where they are given: by the generation settings, or by the model's."""
        texts = self.model_settings.get("text_config")
        sources = {
            GENERATION_SETTINGS: self.generation_settings,
            MODEL_SETTINGS: self.model_settings,
            f"{MODEL_SETTINGS}: text_config": texts if isinstance(texts, dict) else {},
        }
        for source, settings in sources.items():
            value = settings.get(key)
            if value is not None:
                ids = value if isinstance(value, list) else [value]
                if not all(isinstance(id_, int) for id_ in ids):
                    raise ValueError(f"{self.path / source}: {key} is {value!r}, not token ids")
                return tuple(dict.fromkeys(ids)), f"{self.path / source}: {key}"
        return (), ""

    def chat_templates(self) -> dict[str, str]:
        """Chat templates by name; files of their own come before tokenizer_config.json."""
        names = self.names(f"{TEMPLATE_FOLDER}/*.jinja")
        sources = {DEFAULT: TEMPLATE_FILE} | {Path(name).stem: name for name in names}
        texts = {name: self.text(file) for name, file in sources.items()}
        found = {name: text for name, text in texts.items() if text is not None}
        if found:
            return found
        value = self.settings.get("chat_template")
        where = f"{self.path / SETTINGS}: chat_template"
        return {} if value is None else named_templates(value, name=where)

    def originals(self, vocabulary: str | None) -> dict[str, bytes]:
        """Every file of the tokenizer by its name, the one of its vocabulary included."""
        names = [*TOKENIZER_FILES, *self.names(f"{TEMPLATE_FOLDER}/*.jinja")]
        contents = {name: self.read(name) for name in [*names, vocabulary] if name}
        return {name: content for name, content in contents.items() if content is not None}

    @property
    def _decoder(self) -> dict[str, Any] | None:
        """The list of every added token by its id, which older folders do not have."""
        value = self.settings.get("added_tokens_decoder")
        if value is None or (isinstance(value, dict) and all(id_.isdigit() for id_ in value)):
            return value
        raise ValueError(
            f"{self.path / SETTINGS}: added_tokens_decoder is {str(value)[:60]}, not tokens by id"
        )

    def special_tokens(self, defaults: Mapping[str, str]) -> SpecialTokens:
        """The special tokens; `defaults` are those of the tokenizer's class, by role."""
        mapped = self.json("special_tokens_map.json") if self._decoder is None else {}
        settings = {**defaults, **self.settings, **mapped}
        further = settings.get("extra_special_tokens") or settings.get("additional_special_tokens")
        if isinstance(further, dict):
            settings, further = settings | further, None
        named = {
            role: self._token(value, role)
            for role, value in settings.items()
            if role.endswith("_token") and isinstance(value, str | dict)
        }
        others = tuple(self._token(token, "extra_special_tokens") for token in further or [])
        listed = self._listed({str(token) for token in [*named.values(), *others]})
        known = {str(token): token for token in listed.values()}
        return SpecialTokens(
            named={role: known.get(str(token), token) for role, token in named.items()},
            listed=listed,
            further=others,
        )

    def _listed(self, special: set[str]) -> "dict[int, AddedToken]":
        """The tokens by id: added_tokens_decoder, or added_tokens.json of older folders."""
        from tokenizers import AddedToken

        tokens: dict[int, AddedToken] = {}
        if self._decoder is not None:
            for id_, value in self._decoder.items():
                token = self._token(value, f"added_tokens_decoder.{id_}")
                if isinstance(token, str):
                    token = AddedToken(token, special=True)
                tokens[int(id_)] = token
        else:
            for text, id_ in self.json("added_tokens.json").items():
                is_special = text in special
                tokens[id_] = AddedToken(text, special=is_special, normalized=not is_special)
        return dict(sorted(tokens.items()))

    def _token(self, value: Any, key: str) -> "AddedToken | str":
        """A token as JSON has it: its text, or an object with flags."""
        from tokenizers import AddedToken

        if isinstance(value, str):
            return value
        if not isinstance(value, dict) or not isinstance(value.get("content"), str):
            raise ValueError(f"{self.path / SETTINGS}: {key} is {value!r}, which is no token")
        return AddedToken(**{flag: value[flag] for flag in FLAGS if flag in value})
