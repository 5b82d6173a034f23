"""Datasets of conversations: what the assistant says in them is learned, in every turn."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from jaxllm.data.batch import batch_shapes
from jaxllm.data.chat_rows import ChatRows
from jaxllm.data.chat_template import ChatTemplate
from jaxllm.data.chat_tokens import encode_chat
from jaxllm.data.conversation import KEY, conversation_of
from jaxllm.data.dataset_error import DatasetError
from jaxllm.data.example_record import ExampleRecord
from jaxllm.data.example_table import ColumnKind, Encoded, Table
from jaxllm.data.examples import ExampleRows, ExamplesConfig
from jaxllm.data.huggingface_tokenizer import HuggingFaceTokenizer
from jaxllm.data.tokenizer import Tokenizer

if TYPE_CHECKING:
    import jax

# What a template that writes the date reads: the same data gives the same tokens on every day.
MOMENT = datetime(2025, 1, 1)


class ChatsConfig(ExamplesConfig):
    """Conversations in the chat template of the tokenizer, several of them packed in a row.

    A record has `messages`, `conversations`, `prompt` and `completion`, or `instruction` and
    `output`.
    """

    type: Literal["chats"] = "chats"
    """Kind of dataset: conversations."""

    columns: ClassVar[Mapping[str, ColumnKind]] = {
        "tokens": "tokens",
        "is_scored": "uint8",
        "stops": "int32",
    }

    def encode(
        self, record: ExampleRecord, tokenizer: Tokenizer, *, is_labelled: bool = True
    ) -> list[Encoded]:
        conversation = conversation_of(record)
        known, template = _with_template(tokenizer)
        try:
            chat = encode_chat(conversation, known, template)
        except ValueError as error:
            raise DatasetError(KEY, f"{record.where}: {error}") from error
        # Nothing behind the last answer is learned, or seen by what is.
        end = int(chat.stops[-1])
        fields = {
            "tokens": chat.ids_T[:end],
            "is_scored": chat.is_scored_T[:end].astype(np.uint8),
            "stops": chat.stops.astype(np.int32),
        }
        return [fields]

    def options_with(self, tokenizer: Tokenizer) -> dict[str, Any]:
        _, template = _with_template(tokenizer)
        return {
            "chat_templates": template.templates,
            "special_tokens": template.special_tokens,
            "moment": MOMENT.isoformat(),
        }

    def texts(self, record: ExampleRecord) -> list[str]:
        said = (message["content"] for message in conversation_of(record).messages)
        return [text for text in said if text]

    def rows(self, table: Table, length: int, *, tokenizer: Tokenizer) -> ChatRows:
        return ChatRows(table, length, padding_id=tokenizer.delimiter_id)

    def shapes(self, rows: int, length: int) -> "dict[str, jax.ShapeDtypeStruct]":
        return batch_shapes(rows, length)

    def told(self, splits: Sequence[ExampleRows], *, name: str, length: int) -> list[str]:
        chats = [rows for rows in splits if isinstance(rows, ChatRows)]
        count = sum(rows.num_examples for rows in chats)
        num_rows = sum(rows.num_rows for rows in chats)
        filling = 1 - sum(int(rows.sizes.sum()) for rows in chats) / (num_rows * length)
        told = [
            f"{name}: {count:,} conversations are packed in {num_rows:,} rows, of which "
            f"{filling:.2%} is filling"
        ]
        examples, tokens = (
            sum(column) for column in zip(*(rows.truncated for rows in chats), strict=True)
        )
        if examples:
            dropped = sum(rows.num_dropped for rows in chats)
            told.append(
                f"{name}: {examples:,} of {count:,} conversations are longer than "
                f"data.sequence_length={length}: {examples - dropped:,} end at an earlier turn, "
                f"{dropped:,} are left out as not even the first answer fits, {tokens:,} tokens in "
                "all; raise it for them"
            )
        return told


def _with_template(tokenizer: Tokenizer) -> tuple[HuggingFaceTokenizer, ChatTemplate]:
    """The tokenizer, and its template at a fixed moment. ValueError for one that has none."""
    if not isinstance(tokenizer, HuggingFaceTokenizer) or tokenizer.chat_template is None:
        raise ValueError(
            "conversations need a chat template, and the tokenizer has none; give one of a model "
            "that was made for conversations, or a file with a template "
            "(data.tokenizer={type: hf, path: MODEL, chat_template: FILE})"
        )
    return tokenizer, tokenizer.chat_template.at(MOMENT)
