"""What a SentencePiece model file says, read with any version of the protobuf library.

The messages that the sentencepiece package brings refuse a protobuf library older than the one
they were made with, which Apache Beam needs. So those of their fields that are used here are
declared once more (names, numbers and defaults as in sentencepiece_model.proto of SentencePiece).
"""

from functools import cache
from typing import Any

_STRING, _BYTES, _BOOL = "TYPE_STRING", "TYPE_BYTES", "TYPE_BOOL"
_INT, _FLOAT = "TYPE_INT32", "TYPE_FLOAT"

# Of each message: name, number, type and default of its fields.
_FIELDS: dict[str, list[tuple[str, int, str, str]]] = {
    "SentencePiece": [
        ("piece", 1, _STRING, ""),
        ("score", 2, _FLOAT, "0"),
        ("type", 3, _INT, "1"),
    ],
    "TrainerSpec": [
        ("model_type", 3, _INT, "1"),
        ("treat_whitespace_as_suffix", 24, _BOOL, "false"),
        ("byte_fallback", 35, _BOOL, "false"),
        ("unk_id", 40, _INT, "0"),
        ("bos_id", 41, _INT, "1"),
        ("eos_id", 42, _INT, "2"),
        ("unk_piece", 45, _STRING, "<unk>"),
        ("bos_piece", 46, _STRING, "<s>"),
        ("eos_piece", 47, _STRING, "</s>"),
    ],
    "NormalizerSpec": [
        ("precompiled_charsmap", 2, _BYTES, ""),
        ("add_dummy_prefix", 3, _BOOL, "true"),
        ("remove_extra_whitespaces", 4, _BOOL, "true"),
    ],
}
_PARTS = [
    ("pieces", 1, "SentencePiece", "LABEL_REPEATED"),
    ("trainer_spec", 2, "TrainerSpec", "LABEL_OPTIONAL"),
    ("normalizer_spec", 3, "NormalizerSpec", "LABEL_OPTIONAL"),
]
_PACKAGE = "jaxllm.sentencepiece"


def parse_model(content: bytes) -> Any:
    """The model as a message with `pieces`, `trainer_spec` and `normalizer_spec`.

    Raises ValueError for bytes that are no such message.
    """
    from google.protobuf.message import DecodeError

    try:
        return _message_class().FromString(content)
    except DecodeError as error:
        raise ValueError("not a SentencePiece model") from error


@cache
def _message_class() -> Any:
    """The class of the whole model, in a pool of its own."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="jaxllm/sentence_model.proto", package=_PACKAGE, syntax="proto2"
    )
    for message, fields in _FIELDS.items():
        made = file.message_type.add(name=message)
        for name, number, kind, default in fields:
            made.field.add(
                name=name,
                number=number,
                type=kinds.Type.Value(kind),
                label=kinds.LABEL_OPTIONAL,
                default_value=default,
            )
    whole = file.message_type.add(name="ModelProto")
    for name, number, message, label in _PARTS:
        whole.field.add(
            name=name,
            number=number,
            type=kinds.TYPE_MESSAGE,
            type_name=f".{_PACKAGE}.{message}",
            label=kinds.Label.Value(label),
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.ModelProto"))
