"""The tokenizer in the metadata of a GGUF file, as one of the tokenizers library.

`tokenizer.ggml.model` is gpt2 for a byte-level BPE, whose merges are there and where it splits text
by name only, or llama for a SentencePiece model of BPE, of which there are pieces and scores. The
ids are those of the model's own tokenizer; what a key means and where it has a default is as in
llama.cpp. Source: src/llama-vocab.cpp of https://github.com/ggml-org/llama.cpp.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxllm.data.chat_template import DEFAULT
from jaxllm.data.huggingface_tokenizer import HuggingFaceTokenizer
from jaxllm.data.tokenizer_pieces import BPE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, from_pieces
from jaxllm.data.tokenizer_tiktoken import FAMILIES
from jaxllm.data.tokenizer_vocabulary import frame_processor

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PREFIX = "tokenizer.ggml."
BYTE = 6  # of a token's type, beside those of a SentencePiece piece
ROLES = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
STOPS = ("eos", "eot", "eom")  # end of text, of a turn, of a message

# Mistral's, from Nemo on: words begin with capitals, and digits stand alone.
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class _Split(NamedTuple):
    """Where text is cut before it is merged. pattern: None is GPT-2's.

    has_single_digits: whether digits are cut apart first. is_composed: whether text is brought to
    Unicode's form NFC before. ignores_merges: whether a part that is a token is that token, however
    it would be merged. adds_bos: whether a text gets a bos_token if the file does not say.
    """

    pattern: str | None = None
    has_single_digits: bool = False
    is_composed: bool = False
    ignores_merges: bool = False
    adds_bos: bool = False


_LLAMA3 = _Split(FAMILIES["llama3"].split, ignores_merges=True, adds_bos=True)
_DIGITS = _Split(has_single_digits=True)
SPLITS = {
    "gpt-2": _Split(),
    "olmo": _Split(),
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _Split(FAMILIES["qwen2"].split, is_composed=True),
    "tekken": _Split(TEKKEN, ignores_merges=True, adds_bos=True),
}
"""By `tokenizer.ggml.pre`."""


def read_tokenizer(
    metadata: Mapping[str, Any], *, name: str, vocab_size: int
) -> HuggingFaceTokenizer:
    """The tokenizer of a file. name: what errors call it. vocab_size: rows of the embedding.

    ValueError for a kind that is not known here, metadata that do not fit together, and for a
    vocabulary that exceeds the embedding.
    """
    theirs = _Metadata(metadata, name)
    readers = {"gpt2": _from_merges, "llama": _from_pieces}
    kind = theirs.get("model")
    if kind not in readers:
        raise ValueError(
            f"{name}: {PREFIX}model={kind!r} is not known here, only {', '.join(readers)}; "
            "get the tokenizer of the model that the file was made of"
        )
    if len(theirs.tokens) > vocab_size:
        raise ValueError(
            f"{name} has {len(theirs.tokens)} tokens, and the embedding {vocab_size} rows: "
            "they do not belong together"
        )
    tokenizer, adds_bos = readers[kind](theirs)
    special = theirs.special_tokens()
    _add_tokens(tokenizer, theirs, special)
    processor = frame_processor(
        "flags",
        special,
        find_id=tokenizer.token_to_id,
        add_bos_token=theirs.get("add_bos_token", adds_bos),
        add_eos_token=theirs.get("add_eos_token", False),
    )
    assert processor is not None
    tokenizer.post_processor = processor
    return HuggingFaceTokenizer(
        tokenizer.to_str().encode(),
        delimiter=_delimiter(theirs, special),
        name=name,
        stop_ids=tuple(dict.fromkeys(id_ for role in STOPS for id_ in theirs.ids(role))),
        special_tokens=special,
        chat_templates=theirs.chat_templates(),
    )


class _Metadata:
    """The keys of a tokenizer. Raises ValueError for tokens or ids that cannot be."""

    def __init__(self, metadata: Mapping[str, Any], name: str):
        self.name = name
        self._metadata = metadata
        found = self.get("tokens", [])
        # As llama.cpp calls them; such tokens are there to fill a vocabulary up.
        self.tokens = [token or f"[EMPTY_{id_}]" for id_, token in enumerate(found)]
        self.types: Sequence[int] = self.get("token_type", [NORMAL] * len(found))
        twice = [token for token, count in Counter(self.tokens).items() if count > 1]
        if not found or twice or len(self.types) != len(found):
            raise ValueError(
                f"{name}: {len(found)} tokens with {len(self.types)} types, "
                f"{len(twice)} of them more than once {twice[:3]}, are no vocabulary"
            )

    def get(self, key: str, default: Any = None) -> Any:
        value = self._metadata.get(f"{PREFIX}{key}")
        return default if value is None else value

    def ids(self, role: str) -> tuple[int, ...]:
        """The id of a special token, if it has one."""
        id_ = self.get(f"{role}_token_id")
        if id_ is not None and not 0 <= id_ < len(self.tokens):
            raise ValueError(
                f"{self.name}: {PREFIX}{role}_token_id={id_}, and there are {len(self.tokens)} "
                "tokens"
            )
        return () if id_ is None else (id_,)

    def special_tokens(self) -> dict[str, str]:
        """Texts of the special tokens by role."""
        return {name: self.tokens[id_] for role, name in ROLES.items() for id_ in self.ids(role)}

    def chat_templates(self) -> dict[str, str]:
        """Chat templates by name."""
        keys = {f"tokenizer.chat_template.{name}": name for name in self._names()}
        keys = {"tokenizer.chat_template": DEFAULT} | keys
        return {name: self._metadata[key] for key, name in keys.items() if key in self._metadata}

    def _names(self) -> Sequence[str]:
        return self._metadata.get("tokenizer.chat_templates", ())


def _from_merges(theirs: _Metadata) -> "tuple[Tokenizer, bool]":
    """A byte-level BPE, and whether it adds a bos_token by default."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    split = _known_split(theirs)
    merges = [tuple(merge.split(" ")) for merge in theirs.get("merges", [])]
    vocabulary = {token: id_ for id_, token in enumerate(theirs.tokens)}
    try:
        model = models.BPE(vocabulary, merges, ignore_merges=split.ignores_merges)
    except Exception as error:  # the library raises no kind of its own, just Exception
        raise ValueError(f"{theirs.name}: its merges do not fit to its tokens: {error}") from error
    tokenizer = Tokenizer(model)
    first: list[Any] = []
    if split.has_single_digits:
        first.append(pre_tokenizers.Digits(individual_digits=True))
    if split.pattern is not None:
        first.append(pre_tokenizers.Split(Regex(split.pattern), behavior="isolated"))
    level = pre_tokenizers.ByteLevel(
        add_prefix_space=theirs.get("add_space_prefix", False), use_regex=split.pattern is None
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*first, level])
    tokenizer.decoder = decoders.ByteLevel()
    if split.is_composed:
        tokenizer.normalizer = normalizers.NFC()
    return tokenizer, split.adds_bos


def _known_split(theirs: _Metadata) -> _Split:
    """Where text is split. A guess would give wrong ids without a sign of it."""
    name = theirs.get("pre")
    if name not in SPLITS:
        given = f"{PREFIX}pre={name!r}" if name else f"no {PREFIX}pre"
        raise ValueError(
            f"{theirs.name} has {given}, which says where its tokenizer splits text; known are "
            f"{', '.join(SPLITS)}; get the tokenizer of the model that the file was made of"
        )
    return SPLITS[name]


def _from_pieces(theirs: _Metadata) -> "tuple[Tokenizer, bool]":
    """A SentencePiece model put together again, and whether it adds a bos_token by default."""
    from sentencepiece import sentencepiece_model_pb2

    scores = theirs.get("scores", [])
    if len(scores) != len(theirs.tokens) or UNKNOWN not in theirs.types:
        raise ValueError(
            f"{theirs.name}: {len(theirs.tokens)} tokens with {len(scores)} scores are no "
            "SentencePiece model, or no token has the type of an unknown one"
        )
    if theirs.get("remove_extra_whitespaces", False):
        raise ValueError(f"{theirs.name}: {PREFIX}remove_extra_whitespaces is not supported")
    _check_order(theirs, scores)
    proto = sentencepiece_model_pb2.ModelProto()
    for token, score, kind in zip(theirs.tokens, scores, theirs.types, strict=True):
        proto.pieces.add(piece=token, score=score, type=int(kind))
    proto.trainer_spec.model_type = BPE
    proto.trainer_spec.byte_fallback = BYTE in theirs.types
    has_prefix = theirs.get("add_space_prefix", True)
    proto.normalizer_spec.add_dummy_prefix = has_prefix
    proto.normalizer_spec.remove_extra_whitespaces = False
    # Without a class, its own rules, which would leave a space a space where they lose nothing.
    vocabulary = from_pieces(
        proto,
        tokenizer_class=None if has_prefix else "LlamaTokenizer",
        name=theirs.name,
        has_prefix=has_prefix,
    )
    return vocabulary.tokenizer, True


def _check_order(theirs: _Metadata, scores: Sequence[float]) -> None:
    """ValueError where two pieces that merges make have the same score.

    Then the order of merges is not known. Some converters write one score for all pieces, where
    they have only a tokenizer.json.
    """
    normal = {
        token: float(score)
        for token, score, kind in zip(theirs.tokens, scores, theirs.types, strict=True)
        if kind == NORMAL
    }
    merged = [
        token
        for token in normal
        if any(token[:cut] in normal and token[cut:] in normal for cut in range(1, len(token)))
    ]
    if len({normal[token] for token in merged}) < len(merged):
        raise ValueError(
            f"{theirs.name}: pieces of its vocabulary have the same score, so that the order of "
            "merges is not known; get the tokenizer of the model that the file was made of"
        )


def _add_tokens(tokenizer: "Tokenizer", theirs: _Metadata, special: Mapping[str, str]) -> None:
    """Tells the tokenizer which tokens are special, and which are never cut."""
    from tokenizers import AddedToken

    named = set(special.values())
    tokenizer.add_tokens(
        [
            AddedToken(token, normalized=False, special=kind == CONTROL or token in named)
            for token, kind in zip(theirs.tokens, np.asarray(theirs.types).tolist(), strict=True)
            if kind in (CONTROL, USER_DEFINED) or token in named
        ]
    )


def _delimiter(theirs: _Metadata, special: Mapping[str, str]) -> str:
    """The token that opens each document: bos_token, <|endoftext|> or eos_token."""
    control = {t for t, kind in zip(theirs.tokens, theirs.types, strict=True) if kind == CONTROL}
    candidates = (special.get("bos_token"), "<|endoftext|>", special.get("eos_token"))
    for token in candidates:
        if token is not None and (token in control or token in special.values()):
            return token
    raise ValueError(
        f"{theirs.name} names no special token that could open a document: neither "
        f"{PREFIX}bos_token_id nor {PREFIX}eos_token_id"
    )
