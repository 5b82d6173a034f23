"""The tokenizer files of a model's folder: which there are, and what they say of special tokens.

What overrides what is as in transformers 5. Only files of the folder are read: names that leave it,
by `..` or by a link, are refused. No code of a model is ever run.
"""

import json
import os
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxllm.containment import contained
from jaxllm.data.chat_template import DEFAULT, TEMPLATE_FILE, named_templates

if TYPE_CHECKING:
    from tokenizers import AddedToken

FLAGS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
SETTINGS, MODEL_SETTINGS = "tokenizer_config.json", "config.json"
GENERATION_SETTINGS = "generation_config.json"
TOKENS_MAP, ADDED_TOKENS = "special_tokens_map.json", "added_tokens.json"
FURTHER = ("extra_special_tokens", "additional_special_tokens")
SWITCHES = ("add_bos_token", "add_eos_token")
TEMPLATE_FOLDER = "additional_chat_templates"

# What a folder may have of a tokenizer, beside vocabularies of a name of their own.
TOKENIZER_FILES = (
    "tokenizer.json",
    SETTINGS,
    TOKENS_MAP,
    ADDED_TOKENS,
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "source.spm",
    "target.spm",
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
        name = self.model_settings.get("model_type")
        return name if isinstance(name, str) else None

    @property
    def class_source(self) -> str:
        """The file and the key that tell the class: of the tokenizer, or of the model."""
        if self.settings.get("tokenizer_class"):
            return f"{self.path / SETTINGS}: tokenizer_class"
        key = "tokenizer_class" if self.model_settings.get("tokenizer_class") else "model_type"
        return f"{self.path / MODEL_SETTINGS}: {key}"

    def wrong_id(self, token: str, id_: int, *, file: str, real: int | None) -> ValueError:
        """The error of an added token that has another id than a list of the folder says.

        file: the vocabulary's. real: the id that the token has with it.
        """
        listed = f"{SETTINGS}: added_tokens_decoder.{id_}"
        source = ADDED_TOKENS if self._decoder is None else listed
        is_it = "another token is" if real is None else f"it is {real}"
        return ValueError(
            f"{self.path / source} gives the added token {token!r} the id {id_}, but with "
            f"{file} {is_it}: they do not belong together"
        )

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
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.path / name} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise ValueError(f"{self.path / name} is a {type(value).__name__}, not an object")
        return value

    def names(self, pattern: str) -> list[str]:
        """The files that match, in order, relative to the folder."""
        found = sorted(path for path in self.path.glob(pattern) if path.is_file())
        return [path.relative_to(self.path).as_posix() for path in found]

    def flag(self, key: str, default: bool) -> bool:
        """A switch of tokenizer_config.json. Raises ValueError unless it is true or false."""
        value = self.settings.get(key)
        if not isinstance(value, bool | None):
            raise self._wrong(SETTINGS, key, value, "true or false")
        return default if value is None else value

    def names_of_files(self, key: str) -> list[str]:
        """A list of files in tokenizer_config.json. Raises ValueError for another value."""
        value = self.settings.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(_is_text(name) for name in value):
            raise self._wrong(SETTINGS, key, value, "a list of names of files")
        return value

    def _wrong(self, file: str, key: str, value: Any, expected: str) -> ValueError:
        return ValueError(f"{self.path / file}: {key} is {reprlib.repr(value)}, not {expected}")

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
                # Below zero some files say that there is none.
                if not all(is_id(id_) or id_ == -1 for id_ in ids):
                    raise self._wrong(source, key, value, "token ids")
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
        if value is None:
            return None
        if isinstance(value, dict) and all(_is_number(id_) for id_ in value):
            return value
        raise self._wrong(SETTINGS, "added_tokens_decoder", value, "tokens by id")

    def special_tokens(self, defaults: Mapping[str, str]) -> SpecialTokens:
        """The special tokens; `defaults` are those of the tokenizer's class, by role."""
        mapped = self.json(TOKENS_MAP) if self._decoder is None else {}
        settings = {**defaults, **self.settings, **mapped}
        files = dict.fromkeys(settings, SETTINGS) | dict.fromkeys(mapped, TOKENS_MAP)
        key = next((key for key in FURTHER if settings.get(key)), FURTHER[0])
        further, file = settings.get(key), files.get(key, SETTINGS)
        if isinstance(further, dict):
            settings |= further
            files |= dict.fromkeys(further, file)
            further = None
        if not isinstance(further, list | None):
            raise self._wrong(file, key, further, "a list of tokens")
        named = {
            role: self._token(value, files[role], role)
            for role, value in settings.items()
            if role.endswith("_token") and role not in SWITCHES and value is not None
        }
        others = tuple(self._token(token, file, key) for token in further or [])
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
                token = self._token(value, SETTINGS, f"added_tokens_decoder.{id_}")
                if isinstance(token, str):
                    token = AddedToken(token, special=True)
                tokens[int(id_)] = token
        else:
            for text, id_ in self.json(ADDED_TOKENS).items():
                if not is_id(id_) or not _is_text(text):
                    raise self._wrong(ADDED_TOKENS, repr(text), id_, "the id of a token")
                is_special = text in special
                tokens[id_] = AddedToken(text, special=is_special, normalized=not is_special)
        return dict(sorted(tokens.items()))

    def _token(self, value: Any, file: str, key: str) -> "AddedToken | str":
        """A token as JSON has it: its text, or an object with flags."""
        from tokenizers import AddedToken

        if _is_text(value):
            return value
        if not isinstance(value, dict) or not _is_text(value.get("content")):
            raise self._wrong(file, key, value, "a token")
        flags = {flag: value[flag] for flag in FLAGS if flag in value}
        if not all(isinstance(flags[flag], bool) for flag in flags if flag != "content"):
            raise self._wrong(file, key, value, "a token whose flags are true or false")
        return AddedToken(**flags)


def is_id(value: Any) -> bool:
    """Whether it can be the number of a token, for which libraries have 32 bits."""
    return type(value) is int and 0 <= value < 2**31


def _is_number(text: str) -> bool:
    """Whether a key of JSON is the number of a token."""
    return text.isascii() and text.isdigit() and len(text) < 12 and is_id(int(text))


def _is_text(value: Any) -> bool:
    """Whether it is a text that can be written: JSON can say halves of characters."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)
