"""Tiny vocabularies, trained on a few sentences; see hf_tokenizer_reference.py."""

import base64
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

HELLO = {
    "Arabic": "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "Hindi": "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
    "Russian": "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!",
    "Chinese": "\u4e2d\u6587\u5b57\u7b26\u662f\u4e2d\u6587",
    "Japanese": "\u65e5\u672c\u8a9e\u306e\u6587\u5b57",
    "accents": "na\u00efve caf\u00e9 r\u00e9sum\u00e9 \u00dcber Stra\u00dfe \u0141\u00f3d\u017a",
}
SENTENCES = [
    "The quick brown fox jumps over the lazy dog, and the dog doesn't mind at all.",
    "We'll see what they're saying: it's 1234 words, 56.78% of them new (or so I've heard)!",
    "def encode(text):\n\treturn [ord(c) for c in text]  # a comment\n",
    "    for index in range(10):\n        print(index, end='')\n\n\n",
    "Fellow citizens of the Senate and of the House of Representatives, the state of the union",
    *HELLO.values(),
] * 4

BYTES = pre_tokenizers.ByteLevel.alphabet()
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_LETTERS = r"[^\r\n\p{L}\p{N}]?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
CLIP = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
O200K = (
    rf"{_LETTERS}{_UPPER}*{_LOWER}+{_ENDING}|{_LETTERS}{_UPPER}+{_LOWER}*{_ENDING}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_byte_bpe(*, pattern: str | None = None, vocab_size: int = 400) -> tokenizers.Tokenizer:
    """A byte-level BPE that splits as GPT-2 does, or by a pattern."""
    model = tokenizers.Tokenizer(models.BPE())
    if pattern is None:
        model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        split = pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated")
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        model.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=BYTES, show_progress=False, max_token_length=12
    )
    model.train_from_iterator(SENTENCES, trainer)
    return model


def _byte_alphabet() -> dict[str, int]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + index): byte for index, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()


def train_clip(specials: list[str], *, vocab_size: int = 700) -> tokenizers.Tokenizer:
    """A byte-level BPE of lower-cased words whose last token ends in `</w>`."""
    model = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    model.normalizer = normalizers.Lowercase()
    split = pre_tokenizers.Split(tokenizers.Regex(CLIP), behavior="removed", invert=True)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(specials),
        initial_alphabet=BYTES,
        end_of_word_suffix="</w>",
        show_progress=False,
        max_token_length=12,
    )
    model.train_from_iterator(SENTENCES, trainer)
    return model


def train_ranks(pattern: str) -> dict[bytes, int]:
    """Tokens by rank, as tiktoken has them: the bytes, then what was merged, in its order."""
    vocabulary = train_byte_bpe(pattern=pattern).get_vocab()
    tokens = sorted(vocabulary, key=lambda token: (len(token) > 1, vocabulary[token]))
    return {bytes(BYTE_OF[c] for c in token): rank for rank, token in enumerate(tokens)}


def with_more(ranks: dict[bytes, int], *tokens: bytes) -> dict[bytes, int]:
    """Ranks, and behind them tokens that a text has only if it is split at the right places."""
    known = [token for token in tokens if token not in ranks]
    return ranks | {token: len(ranks) + index for index, token in enumerate(known)}


def write_ranks(path: Path, ranks: dict[bytes, int]) -> None:
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()]
    path.write_text("".join(lines), encoding="ascii")


def train_pieces(path: Path, *, sentences: Iterable[str] = SENTENCES, **options: Any) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=model, minloglevel=2, **options
    )
    path.write_bytes(model.getvalue())


# A small part of what the nmt_nfkc rules of T5 and XLM-R do, whose table alone has 240 kB.
RULES = {"\ufb01": "fi", "\u00bd": "1\u20442", "\u3000": " ", "\u00a0": " ", "\t": " ", "\n": " "}
RULES |= {"\r": " ", "e\u0301": "\u00e9", "\u00ad": "", "\u200d": " ", "\u2028": " "}
RULES |= {chr(0xFF10 + digit): str(digit) for digit in range(10)}


def normalised_unigram(path: Path, **options: Any) -> None:
    rules = path.with_name("rules.tsv")
    hexes = {" ".join(f"{ord(c):X}" for c in a): b for a, b in RULES.items()}
    lines = [f"{a}\t{' '.join(f'{ord(c):X}' for c in b)}\n" for a, b in hexes.items()]
    rules.write_text("".join(lines))
    train_pieces(path, model_type="unigram", normalization_rule_tsv=str(rules), **options)
    rules.unlink()
    model = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
    model.normalizer_spec.normalization_rule_tsv = ""  # where the rules lay is of no use
    path.write_bytes(model.SerializeToString())


def train_word_pieces(*, is_lower: bool) -> list[str]:
    """BERT's tokens in the order of their ids."""
    model = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    model.normalizer = normalizers.BertNormalizer(lowercase=is_lower)
    model.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=names, show_progress=False)
    model.train_from_iterator(SENTENCES, trainer)
    vocabulary = model.get_vocab()
    return sorted(vocabulary, key=vocabulary.__getitem__)
