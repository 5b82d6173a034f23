"""tiktoken vocabularies: a byte-level BPE that is known by the ranks of its tokens alone.

A line is a token in base64 and its rank (https://github.com/openai/tiktoken). tiktoken merges the
neighbours whose union has the lowest rank; so each way to cut a token in two tokens is a merge, in
the order of the ranks, and the tokenizers library encodes the same with these.
"""

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# What the regular expressions below have in common. Without possessive quantifiers, of which some
# the library's engine reads otherwise; none of them changes what these match.
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE, _AFTER = r"[^\r\n\p{L}\p{N}]?", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"

LLAMA3_SPECIALS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_2|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    *(f"<|reserved_special_token_{index}|>" for index in range(3, 248)),
)
QWEN_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@dataclass(frozen=True)
class Family:
    """How the models of a family use such a vocabulary."""

    split: str
    """The regular expression of what is never merged across."""
    specials: tuple[str, ...]
    """The special tokens behind the ranks, where no file lists them; "" for an id without one."""
    names: dict[str, str]
    """Special tokens by role."""
    is_composed: bool = False
    """Whether text is brought to Unicode's form NFC first."""


FAMILIES = {
    "llama3": Family(
        split=_WORDS + r"|\p{N}{1,3}" + _REST,
        specials=LLAMA3_SPECIALS,
        names={"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
    ),
    "qwen2": Family(
        split=_WORDS + r"|\p{N}" + _REST,
        specials=(*QWEN_SPECIALS, *(f"<|extra_{index}|>" for index in range(205))),
        names={"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        is_composed=True,
    ),
    "cl100k": Family(
        split=(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?![\s\S])|\s*[\r\n]|\s+(?!\S)|\s"
        ),
        specials=(
            *("", "<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
            *("",) * 15,
            "<|endofprompt|>",
        ),
        names={"eos_token": "<|endoftext|>"},
    ),
    "o200k": Family(
        split=(
            rf"{_BEFORE}{_UPPER}*{_LOWER}+{_AFTER}|{_BEFORE}{_UPPER}+{_LOWER}*{_AFTER}"
            r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        specials=("", "<|endoftext|>", *("",) * 18, "<|endofprompt|>"),
        names={"eos_token": "<|endoftext|>"},
    ),
}
"""By the name that `split` takes: Llama 3, Qwen, and OpenAI's encodings."""

FAMILY_OF_MODEL = {
    "llama": "llama3",
    "mllama": "llama3",
    "qwen": "qwen2",
    "qwen2": "qwen2",
    "qwen2_moe": "qwen2",
    "qwen3": "qwen2",
    "qwen3_moe": "qwen2",
    "dbrx": "cl100k",
    "gpt_oss": "o200k",
}


def is_ranks(content: bytes) -> bool:
    """Whether a file looks like such a vocabulary, by its first line."""
    fields = content.split(b"\n", 1)[0].split()
    return len(fields) == 2 and fields[1].isdigit() and _decoded(fields[0]) is not None


def read_ranks(content: bytes, *, name: str) -> dict[bytes, int]:
    """The tokens by rank. Raises ValueError for a file that is none, or that lacks a byte."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        token = _decoded(fields[0])
        if len(fields) != 2 or token is None or not fields[1].isdigit() or token in ranks:
            raise ValueError(
                f"{name}, line {number}: {line[:60]!r} is not a new token in base64 and its rank"
            )
        ranks[token] = int(fields[1])
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ValueError(f"{name}: the ranks are not 0 to {len(ranks) - 1}, each once")
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise ValueError(f"{name} has no token for the bytes {missing[:8]}: text would be lost")
    return ranks


def choose_family(split: str | None, *, model_type: str | None, name: str) -> Family:
    """The family of a vocabulary: the one given, or that of the model or of the file's name.

    Raises ValueError where nothing tells, for a guess would give wrong ids without a sign of it.
    """
    stem = name.rsplit("/", 1)[-1].split("_base")[0].removesuffix(".tiktoken")
    found = split or FAMILY_OF_MODEL.get(model_type or "") or (stem if stem in FAMILIES else None)
    if found not in FAMILIES:
        given = f"split is {split!r}" if split else f"config.json has model_type {model_type!r}"
        raise ValueError(
            f"{name} does not say where text is split, and {given}; give `split`, one of "
            f"{', '.join(FAMILIES)}, or beside the file a config.json whose model_type is one of "
            f"{', '.join(FAMILY_OF_MODEL)}"
        )
    return FAMILIES[found]


def from_ranks(
    ranks: dict[bytes, int], family: Family, *, specials: tuple[str, ...]
) -> "Tokenizer":
    """The tokenizer of the tokenizers library; `specials` get the ids behind the ranks."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    spelled = {token: "".join(map(ALPHABET.__getitem__, token)) for token in ranks}
    merges = [(spelled[left], spelled[right]) for left, right in _merges(ranks)]
    vocabulary = {spelled[token]: rank for token, rank in ranks.items()}
    # tiktoken takes a piece that is a token for that, however it was merged.
    tokenizer = Tokenizer(BPE(vocabulary, merges, fuse_unk=False, ignore_merges=True))
    split = pre_tokenizers.Split(Regex(family.split), behavior="isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    tokenizer.decoder = decoders.ByteLevel()
    if family.is_composed:
        tokenizer.normalizer = normalizers.NFC()
    tokens = [
        token or f"<|reserved_token_{len(ranks) + index}|>" for index, token in enumerate(specials)
    ]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in tokens])
    return tokenizer


def _merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Each way to cut a token in two tokens, by the rank of the whole, then of the two."""
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [pair for pair in pairs if pair[0] in ranks and pair[1] in ranks]
        merges += sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return merges


def _decoded(field: bytes) -> bytes | None:
    try:
        return base64.b64decode(field, validate=True)
    except binascii.Error:
        return None


def _byte_alphabet() -> list[str]:
    """The character that a byte-level vocabulary has for each byte: itself where it is visible."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in visible]
    return [chr(byte if byte in visible else 256 + others.index(byte)) for byte in range(256)]


ALPHABET = _byte_alphabet()
"""By byte; GPT-2's table, which the tokenizers library uses."""
