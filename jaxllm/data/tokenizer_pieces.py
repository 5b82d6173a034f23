"""SentencePiece models as tokenizers of the tokenizers library, with the ids that models use.

A BPE model merges the neighbours whose union has the best score; its merges are therefore each way
to cut a piece in two pieces. What surrounds the model depends on the class that a folder names,
because transformers encodes so: `LlamaTokenizer` writes no second mark where a text begins with a
space, and `XLMRobertaTokenizer` has ids of its own. Without a class, the model's own rules count.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxllm.data.huggingface_tokenizer import first_characters
from jaxllm.data.sentence_model import parse_model
from jaxllm.data.sentence_pieces import SPACE
from jaxllm.data.tokenizer_vocabulary import GENERIC, NAMES_OF_CLASS, Frame, Vocabulary

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

UNIGRAM, BPE = 1, 2  # values of trainer_spec.model_type
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # of a piece's type

KNOWN_CLASSES = ("LlamaTokenizer", "GemmaTokenizer", "T5Tokenizer", "XLMRobertaTokenizer")


def read_proto(content: bytes, *, name: str) -> Any:
    """The model of a `.model` file. Raises ValueError for a file that is none."""
    try:
        proto = parse_model(content)
    except ValueError as error:
        raise ValueError(f"{name} is neither a SentencePiece model nor a tiktoken one") from error
    if not proto.pieces or proto.trainer_spec.model_type not in (UNIGRAM, BPE):
        raise ValueError(f"{name} is a SentencePiece model without BPE or unigram pieces")
    return proto


def from_pieces(
    proto: Any,
    *,
    tokenizer_class: str | None,
    name: str,
    has_prefix: bool = True,
    is_legacy: bool = False,
    extra_ids: int = 100,
) -> Vocabulary:
    """The vocabulary of a SentencePiece model, as the tokenizer's class has it.

    has_prefix, is_legacy: of Llama, a space before the text, and before each part of it.
    tokenizer_class: one of KNOWN_CLASSES or GENERIC. extra_ids: T5's sentinels.
    """
    frame: Frame = "flags"
    match tokenizer_class:
        case "LlamaTokenizer":
            scheme = ("always" if is_legacy else "first") if has_prefix else "never"
            tokenizer = _llama(proto, scheme)
        case "GemmaTokenizer":
            tokenizer = _gemma(proto)
        case "T5Tokenizer":
            tokenizer, frame = _words(proto, _sentinels(proto, extra_ids), unk_id=2), "t5"
        case "XLMRobertaTokenizer":
            tokenizer, frame = _words(proto, _fairseq(proto), unk_id=3), "xlm_roberta"
        case generic:
            assert generic in GENERIC, "the caller has asked check_class"
            tokenizer = by_its_own_rules(proto)
    names = NAMES_OF_CLASS.get(tokenizer_class or "") or _names(proto)
    sentinels = [f"<extra_id_{index}>" for index in range(extra_ids)] if frame == "t5" else []
    added = _added_tokens(proto, spaces=tokenizer_class in GENERIC and is_lossless(proto))
    return Vocabulary(tokenizer, name, names, frame, further=(*added, *sentinels))


def is_lossless(proto: Any) -> bool:
    """Whether a model takes a text as it is, every space of it."""
    spec = proto.normalizer_spec
    changes = spec.add_dummy_prefix or spec.remove_extra_whitespaces or spec.precompiled_charsmap
    return proto.trainer_spec.byte_fallback and not changes


def by_its_own_rules(proto: Any) -> "Tokenizer":
    """A model used as the SentencePiece library uses it."""
    from tokenizers import normalizers

    if proto.trainer_spec.treat_whitespace_as_suffix:
        raise ValueError(
            "the SentencePiece model writes spaces behind words; that is not supported"
        )
    if is_lossless(proto):
        return _lossless(proto)
    spec = proto.normalizer_spec
    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(_regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    tokenizer = _model(proto)
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = _decoder(has_prefix=spec.add_dummy_prefix)
    _keep_apart(tokenizer, proto)
    return tokenizer


def _lossless(proto: Any) -> "Tokenizer":
    """A model with its spaces as spaces, so that their mark stays a character like any other."""
    from tokenizers import decoders

    tokenizer = _model(proto, spaces=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    _keep_apart(tokenizer, proto)
    return tokenizer


def _llama(proto: Any, scheme: str) -> "Tokenizer":
    from tokenizers import pre_tokenizers

    tokenizer = _model(proto, byte_fallback=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme=scheme, split=False)
    tokenizer.decoder = _decoder(has_prefix=scheme != "never")
    return tokenizer


def _gemma(proto: Any) -> "Tokenizer":
    from tokenizers import normalizers, pre_tokenizers

    tokenizer = _model(proto, byte_fallback=True)
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = _decoder(has_prefix=False)
    return tokenizer


def _words(proto: Any, pieces: Sequence[tuple[str, float]], *, unk_id: int) -> "Tokenizer":
    """T5 and XLM-R: a unigram model of words, other white space forgotten."""
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import Unigram

    tokenizer = Tokenizer(Unigram(list(pieces), unk_id=unk_id, byte_fallback=False))
    if proto.normalizer_spec.precompiled_charsmap:
        tokenizer.normalizer = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    marks = pre_tokenizers.Metaspace(SPACE, prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), marks])
    tokenizer.decoder = decoders.Metaspace(SPACE, prepend_scheme="always")
    return tokenizer


def _sentinels(proto: Any, count: int) -> list[tuple[str, float]]:
    """T5's vocabulary: the pieces, and `count` sentinels behind them, the last one first."""
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    return pieces + [(f"<extra_id_{index}>", 0.0) for index in reversed(range(count))]


def _fairseq(proto: Any) -> list[tuple[str, float]]:
    """XLM-R's vocabulary: four tokens of fairseq's for the model's first three, and the mask."""
    first = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    return [*first, *((p.piece, p.score) for p in proto.pieces[3:]), ("<mask>", 0.0)]


def _model(proto: Any, *, byte_fallback: bool | None = None, spaces: bool = False) -> "Tokenizer":
    """The bare model. spaces: write spaces as themselves instead of with their mark."""
    from tokenizers import Tokenizer, models

    fallback = proto.trainer_spec.byte_fallback if byte_fallback is None else byte_fallback
    written = _written(proto, spaces=spaces)
    if proto.trainer_spec.model_type == UNIGRAM:
        scored = [(text, piece.score) for text, piece in zip(written, proto.pieces, strict=True)]
        unk_id = next(i for i, piece in enumerate(proto.pieces) if piece.type == UNKNOWN)
        return Tokenizer(models.Unigram(scored, unk_id=unk_id, byte_fallback=fallback))
    vocabulary = {text: id_ for id_, text in enumerate(written)}
    unknown = next(piece.piece for piece in proto.pieces if piece.type == UNKNOWN)
    return Tokenizer(
        models.BPE(
            vocabulary,
            _merges(proto, written),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=fallback,
        )
    )


def _written(proto: Any, *, spaces: bool) -> list[str]:
    """The pieces as the vocabulary spells them, with spaces or with their marks."""
    return [
        piece.piece.replace(SPACE, " ")
        if spaces and piece.type in (NORMAL, USER_DEFINED)
        else piece.piece
        for piece in proto.pieces
    ]


def _merges(proto: Any, written: Sequence[str]) -> list[tuple[str, str]]:
    """Each way to cut a piece in two pieces, the best score first; of text only."""
    scores = {
        text: piece.score
        for text, piece in zip(written, proto.pieces, strict=True)
        if piece.type == NORMAL
    }
    merges = []
    for text in sorted(scores, key=scores.__getitem__, reverse=True):
        pairs = ((text[:cut], text[cut:]) for cut in range(1, len(text)))
        merges += [pair for pair in pairs if pair[0] in scores and pair[1] in scores]
    return merges


def _decoder(*, has_prefix: bool) -> Any:
    from tokenizers import decoders

    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*steps, *([decoders.Strip(" ", left=1)] if has_prefix else [])])


def _keep_apart(tokenizer: "Tokenizer", proto: Any) -> None:
    """Cuts a text that spells a byte's or a control piece, which a unigram model would match."""
    from tokenizers import pre_tokenizers

    if proto.trainer_spec.model_type == UNIGRAM:
        other = [piece.piece for piece in proto.pieces if piece.type not in (NORMAL, USER_DEFINED)]
        tokenizer.pre_tokenizer = pre_tokenizers.Split(
            _regex(first_characters(other)), behavior="isolated"
        )


def _added_tokens(proto: Any, *, spaces: bool) -> "tuple[AddedToken, ...]":
    """Control pieces, which are special, and symbols that are never cut, which are not."""
    from tokenizers import AddedToken

    return tuple(
        AddedToken(text, normalized=False, special=piece.type == CONTROL)
        for text, piece in zip(_written(proto, spaces=spaces), proto.pieces, strict=True)
        if piece.type in (CONTROL, USER_DEFINED)
        # The library sees no spaces but their marks, so it never finds a symbol with a space.
        if not (spaces and " " in piece.piece)
    )


def _names(proto: Any) -> dict[str, str]:
    """The special tokens by role that the model itself has."""
    spec = proto.trainer_spec
    roles = {
        "bos_token": (spec.bos_id, spec.bos_piece),
        "eos_token": (spec.eos_id, spec.eos_piece),
        "unk_token": (spec.unk_id, spec.unk_piece),
    }
    return {role: piece for role, (id_, piece) in roles.items() if id_ >= 0}


def _regex(pattern: str) -> Any:
    from tokenizers import Regex

    return Regex(pattern)
