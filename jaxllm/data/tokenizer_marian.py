"""The tokenizer of a Marian's folder: source.spm, target.spm and vocab.json."""

from jaxllm.data.marian_tokenizer import SOURCE, TARGET, VOCABULARY
from jaxllm.data.tokenizer_folder import SETTINGS, SpecialTokens, TokenizerFolder, is_id

MARIAN = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
CLASS = "MarianTokenizer"
# What no published model has, and what would change the ids if it were there.
FIXED = {"separate_vocabs": False, "sp_model_kwargs": {}}
FLAGS = ("lstrip", "rstrip", "single_word")


def read_vocabulary(folder: TokenizerFolder) -> dict[str, int]:
    """vocab.json. Raises ValueError for what is no id, or one that two tokens have."""
    vocabulary = folder.json(VOCABULARY)
    where = folder.path / VOCABULARY
    tokens: dict[int, str] = {}
    for token, id_ in vocabulary.items():
        if not is_id(id_):
            raise ValueError(f"{where} gives {token!r} the id {id_!r}, which is no token's number")
        if id_ in tokens:
            raise ValueError(f"{where} gives {tokens[id_]!r} and {token!r} the same id {id_}")
        tokens[id_] = token
    return vocabulary


def check_settings(folder: TokenizerFolder, tokens: SpecialTokens) -> None:
    """Raises ValueError for what would change the ids in a way that is not known here."""
    missing = [name for name in (SOURCE, TARGET, VOCABULARY) if folder.find(name) is None]
    if missing:
        raise ValueError(f"{folder.path} has a Marian's tokenizer, but not {', '.join(missing)}")
    for key, value in FIXED.items():
        if folder.settings.get(key) not in (None, value):
            raise ValueError(
                f"{folder.path / SETTINGS}: {key} is {folder.settings[key]!r}; only {value!r} is "
                f"supported"
            )
    for token in (*tokens.named.values(), *tokens.listed.values(), *tokens.further):
        flags = [] if isinstance(token, str) else [flag for flag in FLAGS if getattr(token, flag)]
        if flags:
            raise ValueError(
                f"{folder.path / SETTINGS} gives the token {str(token)!r} {', '.join(flags)}, "
                f"which is not supported for a Marian"
            )


def add_tokens(
    folder: TokenizerFolder, vocabulary: dict[str, int], tokens: SpecialTokens
) -> tuple[dict[str, int], dict[str, bool]]:
    """The vocabulary with what the folder adds, and the added tokens, whether they are special.

    What vocab.json has keeps its id. Raises ValueError where a list says another.
    """
    named = [str(token) for token in tokens.named.values()]
    if (unknown := str(tokens.named.get("unk_token", ""))) not in vocabulary:
        raise ValueError(f"{folder.path / VOCABULARY} has no {unknown!r}, the unk_token")
    if "eos_token" not in tokens.named:
        raise ValueError(f"{folder.path / SETTINGS}: eos_token is null; a Marian ends texts by it")
    complete = dict(vocabulary)
    added: dict[str, bool] = {}
    taken = {id_: token for token, id_ in vocabulary.items()}
    for id_, listed in tokens.listed.items():
        text = listed.content
        if complete.get(text, id_) != id_ or taken.get(id_, text) != text:
            raise folder.wrong_id(text, id_, file=VOCABULARY, real=complete.get(text))
        complete[text], taken[id_] = id_, text
        added[text] = listed.special or text in named
    for text in [*named, *map(str, tokens.further)]:
        complete.setdefault(text, len(complete))
        added[text] = True
    return complete, added
