"""Text to continue, as the ids that a model has seen such text as."""

from jaxllm.data import DataConfig, Tokenizer
from jaxllm.data.huggingface_tokenizer import HuggingFaceTokenizer


def has_chats(data: DataConfig) -> bool:
    """Whether a run learned from conversations, so that prompts are what a user says in one."""
    return any(dataset.type == "chats" for dataset in data.datasets.values())


def begin(data: DataConfig, tokenizer: Tokenizer, text: str) -> list[int]:
    """A prompt as what a run on this data has learned from begins."""
    return question(tokenizer, text) if has_chats(data) else document(tokenizer, text)


def document(tokenizer: Tokenizer, text: str) -> list[int]:
    """The beginning of a document, which a delimiter opens, as in training."""
    return [tokenizer.delimiter_id, *tokenizer.encode(text).tolist()]


def as_published(tokenizer: Tokenizer, text: str) -> list[int]:
    """As transformers reads it for an imported model: what opens a text is the tokenizer's to say.

    Special tokens that are spelled out are such. Nothing at all is a new document.
    """
    if not isinstance(tokenizer, HuggingFaceTokenizer) or not text:
        return document(tokenizer, text)
    return tokenizer.encode_with_specials(text).ids.tolist()


def question(tokenizer: Tokenizer, text: str) -> list[int]:
    """What a user says, in the chat template, before the answer. ValueError without a template."""
    if not isinstance(tokenizer, HuggingFaceTokenizer) or tokenizer.chat_template is None:
        raise ValueError(
            "--chat needs a chat template, and the tokenizer has none; leave it out, or import a "
            "model that was made for conversations"
        )
    written = tokenizer.chat_template.render([{"role": "user", "content": text}], True)
    return tokenizer.encode_with_specials(written, add=False).ids.tolist()
