"""The tokenizer of a published model: of its folder, or of its .gguf file."""

from pathlib import Path

from jaxllm.data.model_tokenizer import ModelTokenizer, read_model_tokenizer
from jaxllm.data.tokenizer_folder import TokenizerFolder
from jaxllm.hf.gguf import open_gguf
from jaxllm.hf.tokenizer_export import write_tokenizer

__all__ = ["find_tokenizer", "write_tokenizer"]


def find_tokenizer(
    folder: Path | str, *, vocab_size: int | None, split: str | None = None
) -> ModelTokenizer | None:
    """The tokenizer of a model's folder, or of its .gguf file; None when there is none.

    vocab_size: rows of the model's embedding, which the tokenizer must not exceed. split: where a
    tiktoken vocabulary splits text, if neither config.json nor the file's name says: llama3, qwen2,
    cl100k or o200k. Raises ValueError for a tokenizer that is not known, is damaged or too large.
    """
    if Path(folder).suffix == ".gguf":
        return open_gguf(Path(folder)).tokenizer()
    tokenizer = read_model_tokenizer(TokenizerFolder(Path(folder)), split=split)
    if tokenizer is None or vocab_size is None or tokenizer.vocab_size <= vocab_size:
        return tokenizer
    raise ValueError(
        f"{tokenizer.name} has {tokenizer.vocab_size} tokens with those that are "
        f"added, and the model's embedding {vocab_size} rows; give an embedding of as many "
        f"(`vocab_size` in config.json), or the tokenizer of this model"
    )
