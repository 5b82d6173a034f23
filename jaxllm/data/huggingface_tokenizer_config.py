"""Which published tokenizer a run has, and whose chat template."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jaxllm.data.chat_tokens import turn_end
from jaxllm.data.huggingface_tokenizer import HuggingFaceTokenizer
from jaxllm.data.tokenizer_card import CARD
from jaxllm.package_paths import located
from jaxllm.schema import Config

if TYPE_CHECKING:
    from jaxllm.data.marian_tokenizer import MarianTokenizer

DELIMITER = "<|endoftext|>"


class HuggingFaceTokenizerConfig(Config):
    """The tokenizer of a published model."""

    type: Literal["hf"] = "hf"
    """Kind of tokenizer: a published model's."""
    path: str
    """The model's folder, with a tokenizer of any kind that `jaxllm import` reads, the tokenizer's
    folder of a run, or a `tokenizer.json`; `package://NAME/FOLDER` is one of an installed
    package."""
    delimiter: str | None = None
    """The special token that opens each document; by default what the folder says, of a file
    `<|endoftext|>`."""
    chat_template: str | None = None
    """File with a chat template (Jinja) in place of the tokenizer's own; null keeps that."""

    def build(self, texts: Iterable[str] = ()) -> "HuggingFaceTokenizer | MarianTokenizer":
        """The tokenizer as it is; it learns nothing from `texts`."""
        tokenizer = self._own()
        if self.chat_template is None:
            return tokenizer
        key = "data.tokenizer.chat_template"
        try:
            file = located(self.chat_template)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from error
        if not file.is_file():
            raise ValueError(f"{key}: there is no file {file}; give one, or null")
        if not isinstance(tokenizer, HuggingFaceTokenizer):
            raise ValueError(f"{key} is given, but {self.path} is of translations, not of chats")
        tokenizer.replace_chat_template(file.read_bytes(), name=f"the chat template {file}")
        assert tokenizer.chat_template is not None
        end = turn_end(tokenizer, tokenizer.chat_template)
        if end is not None and end not in tokenizer.stop_ids:
            tokenizer.stop_ids = (*tokenizer.stop_ids, end)
        return tokenizer

    def _own(self) -> "HuggingFaceTokenizer | MarianTokenizer":
        try:
            path = located(self.path)
        except ValueError as error:
            raise ValueError(f"data.tokenizer.path: {error}") from error
        if path.is_dir():
            return self._of_folder(path)
        if not path.is_file():
            raise ValueError(f"there is no tokenizer at {path}; change `data.tokenizer.path`")
        if path.suffix != ".json":
            raise ValueError(
                f"data.tokenizer.path: {path} is no tokenizer.json; give the model's folder, which "
                f"may have a tokenizer of another kind. That of a .gguf file, and of a model that "
                f"runs its own code, has to be converted first, the former by `jaxllm import`"
            )
        return HuggingFaceTokenizer(
            path.read_bytes(),
            delimiter=self.delimiter or DELIMITER,
            name=f"data.tokenizer.path: {path}",
        )

    def _of_folder(self, path: Path) -> "HuggingFaceTokenizer | MarianTokenizer":
        # These modules build what this one describes, so that they stand on it.
        from jaxllm.data.model_tokenizer import load_model_tokenizer, read_model_tokenizer
        from jaxllm.data.tokenizer_folder import TokenizerFolder

        try:
            if (path / CARD).is_file():
                return load_model_tokenizer(path, delimiter=self.delimiter)
            tokenizer = read_model_tokenizer(TokenizerFolder(path), delimiter=self.delimiter)
        except ValueError as error:
            raise ValueError(f"data.tokenizer.path: {error}") from error
        if tokenizer is None:
            raise ValueError(f"there is no tokenizer at {path}; change `data.tokenizer.path`")
        return tokenizer
