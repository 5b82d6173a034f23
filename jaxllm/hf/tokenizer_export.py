"""Tokenizers written as a model's folder has them, so that transformers opens them.

One that came from such a folder is written back byte for byte. The kinds of jaxllm become a
tokenizer.json in which a text has the same ids, and stays a text whatever it spells. One exception:
where a unigram model could cut a run of one character ("-----") in several ways of the same score,
rounding decides, and SentencePiece rounds otherwise.
"""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxllm.data.chat_template import DEFAULT, TEMPLATE_FILE
from jaxllm.data.huggingface_tokenizer import HuggingFaceTokenizer
from jaxllm.data.marian_tokenizer import MarianTokenizer
from jaxllm.data.sentence_pieces import DELIMITER_PIECE, SentencePieceTokenizer
from jaxllm.data.tokenizer import ByteTokenizer, Tokenizer
from jaxllm.data.tokenizer_folder import SETTINGS, TEMPLATE_FOLDER
from jaxllm.data.tokenizer_pieces import from_pieces, read_proto
from jaxllm.data.tokenizer_tiktoken import ALPHABET

if TYPE_CHECKING:
    import tokenizers

logger = logging.getLogger(__name__)

PROBE = "  two spaces, a\ttab,\nlines\n\nand \ufb01 \u00e9 e\u0301 \U0001f600 12 \u2581 </s><0x41> "


def write_tokenizer(tokenizer: Tokenizer, folder: Path | str) -> None:
    """Writes what transformers' AutoTokenizer opens with the same ids.

    Files that the tokenizer was read from are written as they were. Raises ValueError for a kind
    that has no such form.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    match tokenizer:
        case HuggingFaceTokenizer() | MarianTokenizer() if tokenizer.originals:
            for name, content in tokenizer.originals.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
        case HuggingFaceTokenizer():
            (folder / "tokenizer.json").write_bytes(tokenizer.model)
            _write_settings(folder, tokenizer.special_tokens or _both_ends(tokenizer.delimiter))
            _write_templates(folder, tokenizer)
        case SentencePieceTokenizer():
            proto = read_proto(tokenizer.model, name="the tokenizer")
            vocabulary = from_pieces(proto, tokenizer_class=None, name="the tokenizer")
            vocabulary.tokenizer.add_tokens(list(vocabulary.further))
            delimiter = proto.pieces[tokenizer.delimiter_id].piece
            (folder / "tokenizer.model").write_bytes(tokenizer.model)
            _write_own(tokenizer, vocabulary.tokenizer, delimiter, folder)
        case ByteTokenizer():
            _write_own(tokenizer, _bytes(), DELIMITER_PIECE, folder)
        case _:
            raise ValueError(
                f"a {type(tokenizer).__name__} has no form that transformers opens; train with "
                f"`data.tokenizer.type` byte, sentencepiece or hf"
            )


def _write_own(
    tokenizer: Tokenizer, converted: "tokenizers.Tokenizer", delimiter: str, folder: Path
) -> None:
    """A tokenizer of jaxllm's own kinds: the delimiter opens each text, and no text spells it."""
    from tokenizers import AddedToken
    from tokenizers.processors import TemplateProcessing

    converted.add_special_tokens([AddedToken(delimiter, normalized=False, special=True)])
    converted.post_processor = TemplateProcessing(
        single=[delimiter, "$A"],
        pair=[delimiter, "$A", f"{delimiter}:1", "$B:1"],
        special_tokens=[(delimiter, tokenizer.delimiter_id)],
    )
    converted.encode_special_tokens = True
    ids = converted.encode(PROBE, add_special_tokens=False).ids
    if ids != tokenizer.encode(PROBE).tolist():
        logger.warning(
            "transformers gives some texts other ids than this tokenizer: its model changes text "
            "in a way that a tokenizer.json cannot say"
        )
    (folder / "tokenizer.json").write_text(converted.to_str(pretty=True), encoding="utf-8")
    _write_settings(folder, _both_ends(delimiter), split_special_tokens=True)


def _bytes() -> "tokenizers.Tokenizer":
    """A token for each byte, in their order, and no merges."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    vocabulary = {character: byte for byte, character in enumerate(ALPHABET)}
    converted = Tokenizer(BPE(vocabulary, []))
    converted.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    converted.decoder = decoders.ByteLevel()
    return converted


def _both_ends(delimiter: str) -> dict[str, str]:
    """The delimiter opens a document, and where one opens another has ended."""
    return {"bos_token": delimiter, "eos_token": delimiter}


def _write_settings(folder: Path, special: dict[str, str], **settings: Any) -> None:
    content = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # of every version of transformers
        **special,
        "clean_up_tokenization_spaces": False,
        **settings,
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    (folder / SETTINGS).write_text(text, encoding="utf-8")


def _write_templates(folder: Path, tokenizer: HuggingFaceTokenizer) -> None:
    templates = tokenizer.chat_template.templates if tokenizer.chat_template else {}
    for name, source in templates.items():
        path = TEMPLATE_FILE if name == DEFAULT else f"{TEMPLATE_FOLDER}/{name}.jinja"
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(source, encoding="utf-8")
