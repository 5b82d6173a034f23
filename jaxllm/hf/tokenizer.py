"""The tokenizer of a Hugging Face model folder, of whichever kind it is.

All kinds become one: a tokenizer.json of the tokenizers library. The ids are those of transformers
5; where a folder has a tokenizer.json, that file alone says how text is cut.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jaxllm.data.huggingface_tokenizer import HuggingFaceTokenizer
from jaxllm.hf.gguf import open_gguf
from jaxllm.hf.tokenizer_export import write_tokenizer
from jaxllm.hf.tokenizer_folder import SETTINGS, SpecialTokens, TokenizerFolder
from jaxllm.hf.tokenizer_pieces import from_pieces, read_proto
from jaxllm.hf.tokenizer_tiktoken import choose_family, from_ranks, is_ranks, read_ranks
from jaxllm.hf.tokenizer_vocabulary import (
    CLASS_OF_MODEL,
    NAMES_OF_CLASS,
    Vocabulary,
    frame_processor,
)
from jaxllm.hf.tokenizer_words import BYTE_PAIRS, WORD_PIECES, from_merges, from_word_pieces

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["find_tokenizer", "write_tokenizer"]

JSON = "tokenizer.json"
MODELS = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tiktoken.model")
RANKS = "*.tiktoken"

# What a folder has whose tokenizer is of a kind that is not read here.
OTHERS = (
    SETTINGS,
    "tekken.json",
    "*.pkl",
    "tokenization_*.py",
    "bpe.codes",
    "*.model",
    "*.spm",
)


def find_tokenizer(
    folder: Path | str, *, vocab_size: int | None, split: str | None = None
) -> HuggingFaceTokenizer | None:
    """The tokenizer of a model's folder, or of its .gguf file; None when the folder has none.

    vocab_size: rows of the model's embedding, which the tokenizer must not exceed. split: where a
    tiktoken vocabulary splits text, if neither config.json nor the file's name says: llama3, qwen2,
    cl100k or o200k. Raises ValueError for a tokenizer that is not known, is damaged or too large.
    """
    if Path(folder).suffix == ".gguf":
        return open_gguf(Path(folder)).tokenizer()
    files = TokenizerFolder(Path(folder))
    vocabulary = _read_vocabulary(files, split)
    if vocabulary is None:
        _refuse_others(files)
        return None
    special, model = _complete(vocabulary, files)
    tokenizer = HuggingFaceTokenizer(
        model,
        delimiter=_delimiter(vocabulary.tokenizer, special, files),
        name=str(files.path / vocabulary.file),
        stop_ids=_stop_ids(vocabulary.tokenizer, special, files),
        special_tokens=special,
        chat_templates=files.chat_templates(),
        originals=files.originals(vocabulary.file),
    )
    if vocab_size is not None and tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"{files.path / vocabulary.file} has {tokenizer.vocab_size} tokens with those that are "
            f"added, and the model's embedding {vocab_size} rows; give an embedding of as many "
            f"(`vocab_size` in config.json), or the tokenizer of this model"
        )
    return tokenizer


def _read_vocabulary(files: TokenizerFolder, split: str | None) -> Vocabulary | None:
    """The vocabulary of the first file that there is, in the order in which they are complete."""
    tokenizer_class = files.tokenizer_class or CLASS_OF_MODEL.get(files.model_type or "")
    file = _json_file(files)
    if (content := files.read(file)) is not None:
        return _from_json(files, content, file, tokenizer_class)
    for name in [*MODELS, *files.names(RANKS)]:
        content = files.read(name)
        if content is None:
            continue
        if name.endswith(".tiktoken") or is_ranks(content):
            return _from_tiktoken(files, content, name, split)
        extra_ids = files.settings.get("extra_ids", 100)
        return from_pieces(
            read_proto(content, name=str(files.path / name)),
            tokenizer_class=tokenizer_class,
            name=name,
            has_prefix=files.flag("add_prefix_space", True),
            is_legacy=files.flag("legacy", False),
            extra_ids=extra_ids if isinstance(extra_ids, int) else 100,
        )
    if files.find(WORD_PIECES):
        return from_word_pieces(files, tokenizer_class)
    if files.find(BYTE_PAIRS) and files.find("merges.txt"):
        return from_merges(files, tokenizer_class)
    return None


def _json_file(files: TokenizerFolder) -> str:
    """tokenizer.json, or the newest of the files that tokenizer_config.json lists in its place."""
    names = [name for name in files.names_of_files("fast_tokenizer_files") if name != JSON]
    newest = max(
        names, key=lambda name: [int(n) for n in name.split(".") if n.isdigit()], default=""
    )
    return newest if newest and files.find(newest) else JSON


def _from_json(
    files: TokenizerFolder, content: bytes, name: str, tokenizer_class: str | None
) -> Vocabulary:
    """A tokenizer.json; of the class's special tokens those that it has."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(content.decode("utf-8"))
    except Exception as error:  # the library raises no kind of its own, just Exception
        raise ValueError(
            f"{files.path / name} is not a Hugging Face tokenizer.json: {error}"
        ) from error
    usual = NAMES_OF_CLASS.get(tokenizer_class or "", {})
    names = {
        role: token for role, token in usual.items() if tokenizer.token_to_id(token) is not None
    }
    return Vocabulary(tokenizer, name, names, "own", model=content)


def _from_tiktoken(
    files: TokenizerFolder, content: bytes, name: str, split: str | None
) -> Vocabulary:
    """A tiktoken vocabulary, with the special tokens that the folder lists, or its family's."""
    where = str(files.path / name)
    family = choose_family(split, model_type=files.model_type, name=where)
    ranks = read_ranks(content, name=where)
    listed = files.special_tokens({}).listed
    specials = tuple(
        str(listed.get(id_, "")) for id_ in range(len(ranks), max(listed, default=-1) + 1)
    )
    tokenizer = from_ranks(ranks, family, specials=specials or family.specials)
    names = {r: t for r, t in family.names.items() if tokenizer.token_to_id(t) is not None}
    return Vocabulary(tokenizer, name, names, "flags")


def _complete(vocabulary: Vocabulary, files: TokenizerFolder) -> tuple[dict[str, str], bytes]:
    """Adds the folder's special tokens. Returns them by role, and the tokenizer.json.

    A tokenizer.json that has them all is returned as it was.
    """
    tokenizer = vocabulary.tokenizer
    before = tokenizer.to_str()
    special = _add_tokens(vocabulary, files.special_tokens(vocabulary.names), files)
    processor = frame_processor(
        vocabulary.frame,
        special,
        find_id=tokenizer.token_to_id,
        add_bos_token=files.flag("add_bos_token", False),
        add_eos_token=files.flag("add_eos_token", False),
    )
    if processor is not None:
        tokenizer.post_processor = processor
    after = tokenizer.to_str()
    if vocabulary.model is not None and after == before:
        return special, vocabulary.model
    return special, after.encode()


def _add_tokens(
    vocabulary: Vocabulary, tokens: SpecialTokens, files: TokenizerFolder
) -> dict[str, str]:
    """Adds what the folder names beyond its vocabulary, in transformers' order; texts by role.

    Raises ValueError when a token gets another id than the folder says.
    """
    from tokenizers import AddedToken

    tokenizer = vocabulary.tokenizer
    named = {str(token) for token in tokens.named.values()}
    present = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    added: list[AddedToken] = list(tokens.listed.values())
    present |= {token.content for token in added}
    for token in [*tokens.named.values(), *tokens.further, *vocabulary.further]:
        if str(token) not in present:
            present.add(str(token))
            added.append(AddedToken(token, special=True) if isinstance(token, str) else token)
    for token in added:
        token.special = token.special or token.content in named
    tokenizer.add_tokens(added)
    for id_, token in tokens.listed.items():
        if tokenizer.token_to_id(token.content) != id_:
            raise ValueError(
                f"{files.path} gives the added token {token.content!r} the id {id_}, but with "
                f"{vocabulary.file} it is {tokenizer.token_to_id(token.content)}: they do not "
                f"belong together"
            )
    return {role: str(token) for role, token in tokens.named.items()}


def _delimiter(tokenizer: "Tokenizer", special: Mapping[str, str], files: TokenizerFolder) -> str:
    """The token that opens each document: the first there is of what a model may open one with.

    That is bos_token; bos_token_id, which models without that token may give; <|endoftext|>; and
    the tokens that end a document, or that open BERT's.
    """
    is_special = {
        token.content: token.special for token in tokenizer.get_added_tokens_decoder().values()
    }
    ids, _ = files.setting_id("bos_token_id")
    by_id = [tokenizer.id_to_token(id_) for id_ in ids[:1] if id_ >= 0]
    candidates = [special.get("bos_token"), *by_id, "<|endoftext|>"]
    candidates += [special.get("eos_token"), special.get("cls_token")]
    for token in candidates:
        if token is not None and is_special.get(token):
            return token
    raise ValueError(
        f"{files.path} names no special token that could open a document; give "
        f"tokenizer_config.json a bos_token or an eos_token of its vocabulary"
    )


def _stop_ids(
    tokenizer: "Tokenizer", special: Mapping[str, str], files: TokenizerFolder
) -> tuple[int, ...]:
    """The tokens that end an answer: generation_config.json, config.json, eos_token."""
    ids, source = files.setting_id("eos_token_id")
    unknown = [id_ for id_ in ids if id_ < 0 or tokenizer.id_to_token(id_) is None]
    if unknown:
        raise ValueError(f"{source} is {list(ids)}, and the tokenizer has no token {unknown[0]}")
    eos = tokenizer.token_to_id(special["eos_token"]) if "eos_token" in special else None
    return ids or (() if eos is None else (eos,))


def _refuse_others(files: TokenizerFolder) -> None:
    """Raises ValueError when a folder has a tokenizer, but none that can be read here."""
    found = [name for pattern in OTHERS for name in files.names(pattern)]
    if "auto_map" in files.settings:
        raise ValueError(
            f"{files.path} has a tokenizer of its own code ({files.settings['auto_map']}), which "
            f"is never run here; save it with transformers as a tokenizer.json"
        )
    if found:
        raise ValueError(
            f"{files.path} has {', '.join(found)}, but none of tokenizer.json, "
            f"{', '.join(MODELS)}, {RANKS}, {WORD_PIECES}, {BYTE_PAIRS} with merges.txt; save the "
            f"tokenizer with transformers, which writes tokenizer.json"
        )
