"""Vocabularies as text: WordPiece (vocab.txt), and byte-level BPE (vocab.json, merges.txt)."""

from typing import TYPE_CHECKING

from jaxllm.data.tokenizer_folder import TokenizerFolder
from jaxllm.data.tokenizer_tiktoken import FAMILIES
from jaxllm.data.tokenizer_vocabulary import (
    BERT,
    CLIP,
    GPT2,
    NAMES_OF_CLASS,
    Frame,
    Vocabulary,
    check_class,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WORD_PIECES, BYTE_PAIRS = "vocab.txt", "vocab.json"
WORD_END = "</w>"  # of a CLIP's tokens that end a word
CLIP_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
)
BERT_CLASSES = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer")
MERGE_CLASSES = (
    "GPT2Tokenizer",
    "GPTNeoXTokenizer",
    "CodeGenTokenizer",
    "RobertaTokenizer",
    "Qwen2Tokenizer",
    "CLIPTokenizer",
)


def from_word_pieces(folder: TokenizerFolder, tokenizer_class: str | None) -> Vocabulary:
    """The vocabulary of a BERT (https://arxiv.org/abs/1810.04805), one token a line.

    Raises ValueError for a class that uses such a file otherwise.
    """
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import WordPiece

    check_class(folder, tokenizer_class, BERT_CLASSES, WORD_PIECES)
    lines = (folder.text(WORD_PIECES) or "").removesuffix("\n").split("\n")
    tokens = {line.removesuffix("\r"): id_ for id_, line in enumerate(lines)}
    names = {**BERT, **{key: value for key, value in folder.settings.items() if key in BERT}}
    unknown = names["unk_token"]
    unknown = unknown if isinstance(unknown, str) else unknown["content"]
    tokenizer = Tokenizer(WordPiece(tokens, unk_token=unknown))
    accents = folder.settings.get("strip_accents")
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=folder.flag("tokenize_chinese_chars", True),
        strip_accents=None if accents is None else bool(accents),
        lowercase=folder.flag("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return Vocabulary(tokenizer, WORD_PIECES, BERT, "bert")


def from_merges(folder: TokenizerFolder, tokenizer_class: str | None) -> Vocabulary:
    """The vocabulary of a GPT-2 and of its kin, and the merges in their order.

    Raises ValueError for a class that splits text otherwise, and for merges that cannot be.
    """
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import BPE

    check_class(folder, tokenizer_class, MERGE_CLASSES, BYTE_PAIRS)
    lines = (folder.text("merges.txt") or "").split("\n")
    pairs = [line.split() for line in lines if line.strip() and not line.startswith("#version")]
    wrong = [pair for pair in pairs if len(pair) != 2]
    if wrong:
        raise ValueError(f"{folder.path / 'merges.txt'}: {wrong[0]} are not two tokens to merge")
    is_clip = tokenizer_class == "CLIPTokenizer"
    options = {"end_of_word_suffix": WORD_END} if is_clip else {}
    try:
        model = BPE(folder.json(BYTE_PAIRS), [(pair[0], pair[1]) for pair in pairs], **options)
    except Exception as error:  # the library raises no kind of its own, just Exception
        raise ValueError(
            f"{folder.path}: merges.txt does not fit to {BYTE_PAIRS}: {error}"
        ) from error
    tokenizer = Tokenizer(model)
    if is_clip:
        _split_words(tokenizer)
        return Vocabulary(tokenizer, BYTE_PAIRS, CLIP, "clip")
    tokenizer.decoder = decoders.ByteLevel()
    _split_bytes(tokenizer, folder, tokenizer_class)
    frame: Frame = "roberta" if tokenizer_class == "RobertaTokenizer" else "flags"
    names = NAMES_OF_CLASS.get(tokenizer_class or "", GPT2)
    return Vocabulary(tokenizer, BYTE_PAIRS, names, frame)


def _split_bytes(
    tokenizer: "Tokenizer", folder: TokenizerFolder, tokenizer_class: str | None
) -> None:
    """Where text is split: as in GPT-2, or as in Qwen."""
    from tokenizers import Regex, normalizers, pre_tokenizers

    has_prefix = folder.flag("add_prefix_space", False)
    if tokenizer_class == "Qwen2Tokenizer":
        tokenizer.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(FAMILIES["qwen2"].split), behavior="isolated")
        level = pre_tokenizers.ByteLevel(add_prefix_space=has_prefix, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=has_prefix)


def _split_words(tokenizer: "Tokenizer") -> None:
    """A CLIP's lower-cased words, without the white space between them."""
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers

    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), spaces, normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, level])
    # Not the library's Strip, which crashes on a text of no tokens.
    last, other = decoders.Replace(Regex(rf"{WORD_END}\z"), ""), decoders.Replace(WORD_END, " ")
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), last, other])
