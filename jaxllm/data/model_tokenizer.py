"""The tokenizer of a model's folder in the Hugging Face layout, of whichever kind it is.

All kinds but Marian's become one: a tokenizer.json of the tokenizers library. The ids are those of
transformers 5; where a folder has a tokenizer.json, that file alone says how text is cut
(but in a Marian's, for which transformers reads the other files).
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from jaxllm.data.huggingface_tokenizer import HuggingFaceTokenizer
from jaxllm.data.marian_tokenizer import SOURCE, TARGET, MarianTokenizer
from jaxllm.data.tokenizer_card import read_card
from jaxllm.data.tokenizer_folder import SETTINGS, SpecialTokens, TokenizerFolder
from jaxllm.data.tokenizer_marian import CLASS as MARIAN_CLASS
from jaxllm.data.tokenizer_marian import MARIAN, add_tokens, check_settings, read_vocabulary
from jaxllm.data.tokenizer_pieces import KNOWN_CLASSES, from_pieces, read_proto
from jaxllm.data.tokenizer_tiktoken import choose_family, from_ranks, is_ranks, read_ranks
from jaxllm.data.tokenizer_vocabulary import (
    CLASS_OF_MODEL,
    NAMES_OF_CLASS,
    Vocabulary,
    check_class,
    frame_processor,
)
from jaxllm.data.tokenizer_words import BYTE_PAIRS, WORD_PIECES, from_merges, from_word_pieces

ModelTokenizer = HuggingFaceTokenizer | MarianTokenizer

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


def read_model_tokenizer(
    files: TokenizerFolder,
    *,
    split: str | None = None,
    delimiter: str | None = None,
) -> ModelTokenizer | None:
    """The tokenizer of a model's folder; None when the folder has none.

    split: where a tiktoken vocabulary splits text, if neither config.json nor the file's name says.
    delimiter: the special token that opens a document; None for what the folder says. Raises
    ValueError for a tokenizer that is not known or is damaged.
    """
    tokenizer_class = files.tokenizer_class or CLASS_OF_MODEL.get(files.model_type or "")
    if tokenizer_class == MARIAN_CLASS and (files.find(SOURCE) or files.find(TARGET)):
        return _marian(files, delimiter)
    vocabulary = _read_vocabulary(files, tokenizer_class, split)
    if vocabulary is None:
        _refuse_others(files)
        return None
    special, model = _complete(vocabulary, files)
    tokenizer = vocabulary.tokenizer
    added = tokenizer.get_added_tokens_decoder().values()
    specials = {token.content for token in added if token.special}
    return HuggingFaceTokenizer(
        model,
        delimiter=delimiter or _delimiter(special, files, specials, tokenizer.id_to_token),
        name=str(files.path / vocabulary.file),
        stop_ids=_stop_ids(special, files, tokenizer.token_to_id, tokenizer.id_to_token),
        special_tokens=special,
        chat_templates=files.chat_templates(),
        originals=files.originals(vocabulary.file),
    )


def load_model_tokenizer(folder: Path, *, delimiter: str | None) -> ModelTokenizer:
    """The tokenizer that `save` wrote into a folder, with another delimiter if one is given.

    Raises ValueError for one that is no published model's.
    """
    card = read_card(folder)
    if delimiter is not None:
        card["delimiter"] = delimiter
    match card["type"]:
        case "hf":
            return HuggingFaceTokenizer.load(folder, card)
        case "marian":
            return MarianTokenizer.load(folder, card)
        case other:
            raise ValueError(f"{folder} has a tokenizer of the type {other!r}, no model's")


def _marian(files: TokenizerFolder, delimiter: str | None) -> MarianTokenizer:
    """A Marian's, which has two models of pieces and their ids in a file of its own."""
    tokens = files.special_tokens(MARIAN)
    check_settings(files, tokens)
    vocabulary, added = add_tokens(files, read_vocabulary(files), tokens)
    special = {role: str(token) for role, token in tokens.named.items()}
    specials = {token for token, is_special in added.items() if is_special}
    of_id = {id_: token for token, id_ in vocabulary.items()}
    return MarianTokenizer(
        files.read(SOURCE) or b"",
        files.read(TARGET) or b"",
        vocabulary,
        added=added,
        special_tokens=special,
        delimiter=delimiter or _delimiter(special, files, specials, of_id.get),
        stop_ids=_stop_ids(special, files, vocabulary.get, of_id.get),
        name=str(files.path),
        originals=files.originals(None),
    )


def _read_vocabulary(
    files: TokenizerFolder, tokenizer_class: str | None, split: str | None
) -> Vocabulary | None:
    """The vocabulary of the first file that there is, in the order in which they are complete."""
    file = _json_file(files)
    if (content := files.read(file)) is not None:
        return _from_json(files, content, file, tokenizer_class)
    for name in [*MODELS, *files.names(RANKS)]:
        content = files.read(name)
        if content is None:
            continue
        if name.endswith(".tiktoken") or is_ranks(content):
            return _from_tiktoken(files, content, name, split)
        proto = read_proto(content, name=str(files.path / name))
        check_class(files, tokenizer_class, KNOWN_CLASSES, name)
        extra_ids = files.settings.get("extra_ids", 100)
        return from_pieces(
            proto,
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
            real = tokenizer.token_to_id(token.content)
            raise files.wrong_id(token.content, id_, file=vocabulary.file, real=real)
    return {role: str(token) for role, token in tokens.named.items()}


def _delimiter(
    special: Mapping[str, str],
    files: TokenizerFolder,
    specials: Collection[str],
    token_of: Callable[[int], str | None],
) -> str:
    """The token that opens each document: the first there is of what a model may open one with.

    That is bos_token; bos_token_id, which models without that token may give; <|endoftext|>; and
    the tokens that end a document, or that open BERT's. special: tokens by role. specials: all that
    are special. token_of: the token of an id.
    """
    ids, _ = files.setting_id("bos_token_id")
    by_id = [token_of(id_) for id_ in ids[:1] if id_ >= 0]
    candidates = [special.get("bos_token"), *by_id, "<|endoftext|>"]
    candidates += [special.get("eos_token"), special.get("cls_token")]
    for token in candidates:
        if token is not None and token in specials:
            return token
    raise ValueError(
        f"{files.path} names no special token that could open a document; give "
        f"tokenizer_config.json a bos_token or an eos_token of its vocabulary"
    )


def _stop_ids(
    special: Mapping[str, str],
    files: TokenizerFolder,
    id_of: Callable[[str], int | None],
    token_of: Callable[[int], str | None],
) -> tuple[int, ...]:
    """The tokens that end an answer: generation_config.json, config.json, eos_token."""
    ids, source = files.setting_id("eos_token_id")
    unknown = [id_ for id_ in ids if id_ < 0 or token_of(id_) is None]
    if unknown:
        raise ValueError(f"{source} is {list(ids)}, and the tokenizer has no token {unknown[0]}")
    eos = id_of(special["eos_token"]) if "eos_token" in special else None
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
            f"{', '.join(MODELS)}, {RANKS}, {WORD_PIECES}, {BYTE_PAIRS} with merges.txt, and no "
            f"Marian's {SOURCE}; save the tokenizer with transformers, which writes tokenizer.json"
        )
