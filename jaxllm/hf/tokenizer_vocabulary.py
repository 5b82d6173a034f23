"""A vocabulary of a model's folder, and what its tokenizer's class adds around a text."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.processors import PostProcessor

Frame = Literal["own", "flags", "bert", "roberta", "xlm_roberta", "t5"]
"""What goes around a text: what the file itself says, what add_bos_token and add_eos_token say, or
what models of a family have there."""

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


def frame_processor(
    frame: Frame, special: Mapping[str, str], *, find_id: Callable[[str], int | None], **flags: bool
) -> "PostProcessor | None":
    """What puts special tokens around a text; None to leave what the tokenizer has.

    special: tokens by role. find_id: the id of a token. flags: add_bos_token and add_eos_token.
    """
    from tokenizers.processors import RobertaProcessing, TemplateProcessing

    start, end = special.get("bos_token"), special.get("eos_token")
    match frame:
        case "own":
            return None
        case "bert":
            start, end = special["cls_token"], special["sep_token"]
            pattern = ([start, "$A:0", end], [start, "$A:0", end, "$B:1", f"{end}:1"])
        case "roberta":
            sep, cls = special["sep_token"], special["cls_token"]
            ids: list[Any] = [(token, find_id(token)) for token in (sep, cls)]
            return RobertaProcessing(*ids, trim_offsets=True, add_prefix_space=False)
        case "xlm_roberta":
            pattern = ([start, "$A", end], [start, "$A", end, end, "$B", end])
        case "t5":
            pattern = (["$A", end], ["$A", end, "$B", end])
        case "flags":
            first = [start] if start and flags["add_bos_token"] else []
            last = [end] if end and flags["add_eos_token"] else []
            second = [f"{token}:1" for token in (*first, "$B", *last)]
            pattern = ([*first, "$A", *last], [*first, "$A", *last, *second])
    used = {token for token in (start, end) if token}
    found = [(token, id_) for token in sorted(used) if (id_ := find_id(token)) is not None]
    return TemplateProcessing(single=pattern[0], pair=pattern[1], special_tokens=found)
