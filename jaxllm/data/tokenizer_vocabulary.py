"""A vocabulary of a model's folder, and what its tokenizer's class adds around a text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jaxllm.data.tokenizer_folder import TokenizerFolder

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.processors import PostProcessor

Frame = Literal["own", "flags", "bert", "roberta", "xlm_roberta", "t5", "clip"]
"""What goes around a text: what the file itself says, what add_bos_token and add_eos_token say, or
what models of a family have there."""

# The tokens that models of a family have around a text.
ROLES: Mapping[Frame, tuple[str, ...]] = {
    "bert": ("cls_token", "sep_token"),
    "roberta": ("cls_token", "sep_token"),
    "xlm_roberta": ("bos_token", "eos_token"),
    "t5": ("eos_token",),
    "clip": ("bos_token", "eos_token"),
}

# The special tokens of the classes of transformers, where a folder names none.
ANGLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
BERT = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]"}
BERT |= {"mask_token": "[MASK]"}
ROBERTA = ANGLES | {"sep_token": "</s>", "cls_token": "<s>", "pad_token": "<pad>"}
ROBERTA |= {"mask_token": "<mask>"}
GPT2 = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
QWEN2 = dict.fromkeys(("eos_token", "pad_token", "unk_token"), "<|endoftext|>")
GEMMA = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
GEMMA |= {"mask_token": "<mask>"}
CLIP = GPT2 | {"bos_token": "<|startoftext|>", "pad_token": "<|endoftext|>"}
T5 = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}

NAMES_OF_CLASS: Mapping[str, Mapping[str, str]] = {
    "LlamaTokenizer": ANGLES,
    "GemmaTokenizer": GEMMA,
    "T5Tokenizer": T5,
    "XLMRobertaTokenizer": ROBERTA,
    "RobertaTokenizer": ROBERTA,
    "BertTokenizer": BERT,
    "DistilBertTokenizer": BERT,
    "ElectraTokenizer": BERT,
    "GPT2Tokenizer": GPT2,
    "GPTNeoXTokenizer": GPT2,
    "CodeGenTokenizer": GPT2,
    "Qwen2Tokenizer": QWEN2,
    "CLIPTokenizer": CLIP,
}

CLASS_OF_MODEL = {
    "llama": "LlamaTokenizer",
    "mistral": "LlamaTokenizer",
    "mixtral": "LlamaTokenizer",
    "gemma": "GemmaTokenizer",
    "gemma2": "GemmaTokenizer",
    "gemma3": "GemmaTokenizer",
    "gemma3_text": "GemmaTokenizer",
    "t5": "T5Tokenizer",
    "mt5": "T5Tokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "roberta": "RobertaTokenizer",
    "bert": "BertTokenizer",
    "distilbert": "BertTokenizer",
    "electra": "BertTokenizer",
    "gpt2": "GPT2Tokenizer",
    "gpt_neo": "GPT2Tokenizer",
    "gptj": "GPT2Tokenizer",
    "opt": "GPT2Tokenizer",
    "gpt_neox": "GPTNeoXTokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen2_moe": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "qwen3_moe": "Qwen2Tokenizer",
    "clip": "CLIPTokenizer",
    "marian": "MarianTokenizer",
}
"""The class of a model's tokenizer, where no file names it."""

# Classes that say nothing of the vocabulary.
GENERIC = (None, "PreTrainedTokenizer", "TokenizersBackend")


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary as the tokenizers library encodes with it."""

    tokenizer: "Tokenizer"
    file: str
    """The file that it was read from."""
    names: Mapping[str, str]
    """Special tokens by role, where the folder names no others."""
    frame: Frame
    model: bytes | None = None
    """The file's content, where it is a tokenizer.json."""
    further: "tuple[AddedToken | str, ...]" = ()
    """Tokens that are special by the vocabulary's own word."""


def check_class(folder: TokenizerFolder, name: str | None, known: Sequence[str], file: str) -> None:
    """Raises ValueError for a class of which it is not known how it uses a file."""
    if name not in known and name not in GENERIC:
        raise ValueError(
            f"{folder.path / file} is of a {name}, by {folder.class_source}, which is not known "
            f"here; known with such a file are {', '.join(known)}; save it with transformers, "
            f"which writes the tokenizer.json that is read here"
        )


def frame_processor(
    frame: Frame,
    special: Mapping[str, str],
    *,
    find_id: Callable[[str], int | None],
    add_bos_token: bool,
    add_eos_token: bool,
) -> "PostProcessor | None":
    """What puts special tokens around a text; None to leave what the tokenizer has.

    special: tokens by role. find_id: the id of a token. The flags are tokenizer_config.json's.
    Raises ValueError when a token is not named that the models of the family have there.
    """
    from tokenizers.processors import RobertaProcessing, TemplateProcessing

    missing = [role for role in ROLES.get(frame, ()) if role not in special]
    if missing:
        raise ValueError(
            f"tokenizer_config.json gives no {', '.join(missing)}, which models of this family "
            f"have around a text; name a token of the vocabulary"
        )
    bos, eos, cls, sep = (special.get(f"{role}_token", "") for role in ("bos", "eos", "cls", "sep"))
    tokens = sorted({token for token in (bos, eos, cls, sep) if token})
    ids = {token: id_ for token in tokens if (id_ := find_id(token)) is not None}
    match frame:
        case "own":
            return None
        case "bert":
            single, pair = [cls, "$A", sep], [cls, "$A", sep, "$B:1", f"{sep}:1"]
        case "roberta":
            return RobertaProcessing((sep, ids[sep]), (cls, ids[cls]))
        case "clip":
            return RobertaProcessing((eos, ids[eos]), (bos, ids[bos]))
        case "xlm_roberta":
            single, pair = [bos, "$A", eos], [bos, "$A", eos, eos, "$B", eos]
        case "t5":
            single, pair = ["$A", eos], ["$A", eos, "$B", eos]
        case "flags":
            first = [bos] if bos and add_bos_token else []
            last = [eos] if eos and add_eos_token else []
            single = [*first, "$A", *last]
            pair = [*single, *(f"{part}:1" for part in (*first, "$B", *last))]
    return TemplateProcessing(single=single, pair=pair, special_tokens=list(ids.items()))
