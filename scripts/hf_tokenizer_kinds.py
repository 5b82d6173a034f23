"""A folder of each kind of tokenizer, as models have them; see hf_tokenizer_reference.py.

A kind whose own code transformers would have to run returns what tiktoken gives for it.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
from hf_tokenizer_answers import tiktoken_reference
from hf_tokenizer_training import (
    CL100K,
    HELLO,
    LLAMA3,
    O200K,
    QWEN2,
    SENTENCES,
    normalised_unigram,
    train_byte_bpe,
    train_clip,
    train_pieces,
    train_ranks,
    train_word_pieces,
    with_more,
    write_ranks,
)
from tokenizers import normalizers, pre_tokenizers, processors

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MARKS = "\u2581\u2581"  # two spaces, as SentencePiece writes them


def write_json(path: Path, content: Any, *, indent: int | None = 1) -> None:
    path.write_text(json.dumps(content, indent=indent, ensure_ascii=False), encoding="utf-8")


def added(content: str, *, special: bool = True, **flags: bool) -> dict[str, Any]:
    """A token as `added_tokens_decoder` lists it."""
    default = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    return {"content": content, **default, "special": special, **flags}


def json_bytelevel(folder: Path) -> None:
    """tokenizer.json with a post-processor; tokenizer_config.json adds tokens that it lacks."""
    model = train_byte_bpe()
    model.add_special_tokens(SPECIALS)
    start = model.token_to_id("<|endoftext|>")
    model.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A",
        pair="<|endoftext|> $A <|endoftext|>:1 $B:1",
        special_tokens=[("<|endoftext|>", start)],
    )
    model.enable_truncation(8)  # as some published files have it
    model.save(str(folder / "tokenizer.json"))
    known = {str(start + index): added(token) for index, token in enumerate(SPECIALS)}
    known[str(start + 3)] = added("<tool>", special=False, normalized=True)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": known,
        "bos_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<pad>",
        "chat_template": "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}",
    }
    write_json(folder / "tokenizer_config.json", config)
    stops = [start + 2, start]
    write_json(folder / "generation_config.json", {"bos_token_id": start, "eos_token_id": stops})


def llama_pieces(folder: Path, **config: Any) -> None:
    """tokenizer.model of a Llama 2, and tokens beside it."""
    train_pieces(
        folder / "tokenizer.model",
        model_type="bpe",
        vocab_size=460,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=0.99,
    )
    tokens = {
        "0": added("<unk>"),
        "1": added("<s>"),
        "2": added("</s>"),
        "460": added("<|im_start|>"),
        "461": added("<|im_end|>", rstrip=True),
        "462": added("<tool>", special=False),
    }
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "legacy": False}
    settings |= {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False}
    settings |= {"added_tokens_decoder": tokens}
    write_json(folder / "tokenizer_config.json", settings | config)
    write_json(folder / "config.json", {"model_type": "llama", "vocab_size": 464})


def llama_legacy_pieces(folder: Path) -> None:
    """The same with the prefix before each part, and added_tokens.json as older folders have it."""
    llama_pieces(folder, legacy=True, add_eos_token=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["added_tokens_decoder"]
    write_json(
        folder / "tokenizer_config.json",
        config | {"bos_token": {**added("<s>"), "__type": "AddedToken"}},
    )
    write_json(folder / "added_tokens.json", {"<|im_start|>": 460, "<tool>": 461})
    specials = {"additional_special_tokens": ["<|im_start|>"], "pad_token": "</s>"}
    write_json(folder / "special_tokens_map.json", specials)


def gemma_pieces(folder: Path) -> None:
    """tokenizer.model of a Gemma: no prefix, pad before eos before bos, turns as symbols."""
    train_pieces(
        folder / "tokenizer.model",
        model_type="bpe",
        vocab_size=460,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        add_dummy_prefix=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=0.99,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        bos_piece="<bos>",
        eos_piece="<eos>",
        user_defined_symbols=[
            "<mask>",
            "<start_of_turn>",
            "<end_of_turn>",
            "\n",
            "\n\n",
            "\t",
            "  ",
        ],
    )
    config = {"tokenizer_class": "GemmaTokenizer", "add_bos_token": True}
    config |= {
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
    }
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "config.json", {"model_type": "gemma", "vocab_size": 460})


def t5_pieces(folder: Path) -> None:
    """spiece.model of a T5: a unigram model with a normaliser, and sentinels behind it."""
    normalised_unigram(
        folder / "spiece.model", vocab_size=140, pad_id=0, eos_id=1, unk_id=2, bos_id=-1
    )
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": 100}
    config |= {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "config.json", {"model_type": "t5", "vocab_size": 256})


def xlm_roberta_pieces(folder: Path) -> None:
    """sentencepiece.bpe.model of an XLM-R, whose ids are not those of the file."""
    normalised_unigram(folder / "sentencepiece.bpe.model", vocab_size=140)
    config = {"tokenizer_class": "XLMRobertaTokenizer", "mask_token": added("<mask>", lstrip=True)}
    config["mask_token"]["__type"] = "AddedToken"
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "config.json", {"model_type": "xlm-roberta", "vocab_size": 144})


def llama3_ranks(folder: Path) -> None:
    """tokenizer.model of a Llama 3, which is a tiktoken vocabulary."""
    ranks = with_more(train_ranks(LLAMA3), b"12", b"123", b"1234")
    write_ranks(folder / "tokenizer.model", ranks)
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"]
    known = {str(len(ranks) + index): added(token) for index, token in enumerate(names)}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": known}
    config |= {"bos_token": names[0], "eos_token": names[1], "add_bos_token": True}
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "config.json", {"model_type": "llama", "vocab_size": 408})


def qwen_ranks(folder: Path) -> dict[str, Any]:
    """qwen.tiktoken of the first Qwen, whose own tokenizer normalises to NFC and runs tiktoken."""
    ranks = with_more(train_ranks(QWEN2), b"12", b"e\xcc\x81")
    write_ranks(folder / "qwen.tiktoken", ranks)
    auto_map = {"AutoTokenizer": ["tokenization_qwen.QWenTokenizer", None]}
    config = {"tokenizer_class": "QWenTokenizer", "auto_map": auto_map}
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "config.json", {"model_type": "qwen", "vocab_size": 640})
    nfc = normalizers.NFC().normalize_str
    extra = [f"<|extra_{index}|>" for index in range(205)]
    return tiktoken_reference(ranks, pattern=QWEN2, specials=SPECIALS + extra, prepare=nfc)


def cl100k_ranks(folder: Path) -> dict[str, Any]:
    ranks = with_more(train_ranks(LLAMA3), b"\n ", b"12")
    write_ranks(folder / "tokenizer.tiktoken", ranks)
    return tiktoken_reference(ranks, pattern=CL100K, specials=["", "<|endoftext|>"])


def o200k_ranks(folder: Path) -> dict[str, Any]:
    ranks = with_more(train_ranks(O200K), b"\n/", b"12")
    write_ranks(folder / "tokenizer.tiktoken", ranks)
    return tiktoken_reference(ranks, pattern=O200K, specials=["", "<|endoftext|>"])


def word_pieces(folder: Path, **config: Any) -> None:
    """vocab.txt of a BERT."""
    tokens = train_word_pieces(is_lower=config.get("do_lower_case", True))
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    if config:
        write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"} | config)
    write_json(folder / "config.json", {"model_type": "bert", "vocab_size": 400})


def bert_uncased(folder: Path) -> None:
    word_pieces(folder)


def bert_cased(folder: Path) -> None:
    word_pieces(folder, do_lower_case=False, strip_accents=True, tokenize_chinese_chars=False)


def vocab_and_merges(folder: Path, model: tokenizers.Tokenizer, *, names: list[str]) -> None:
    """vocab.json and merges.txt, the named tokens first."""
    state = json.loads(model.to_str())["model"]
    tokens = [*names, *sorted(state["vocab"], key=state["vocab"].__getitem__)]
    write_json(folder / "vocab.json", {token: id_ for id_, token in enumerate(tokens)}, indent=None)
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in state["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{m}\n" for m in merges))


def gpt2_merges(folder: Path) -> None:
    """vocab.json and merges.txt of a GPT-2, without a tokenizer_config.json."""
    vocab_and_merges(folder, train_byte_bpe(), names=["<|endoftext|>"])
    write_json(folder / "config.json", {"model_type": "gpt2", "vocab_size": 401})


def roberta_merges(folder: Path) -> None:
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocab_and_merges(folder, train_byte_bpe(), names=names)
    config = {"tokenizer_class": "RobertaTokenizer", "add_prefix_space": True}
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "config.json", {"model_type": "roberta", "vocab_size": 405})


def qwen2_merges(folder: Path) -> None:
    vocab_and_merges(folder, train_byte_bpe(pattern=QWEN2), names=[])
    known = {str(400 + index): added(token) for index, token in enumerate(SPECIALS)}
    config = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": known}
    config |= {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    write_json(folder / "tokenizer_config.json", config)
    ids = {"model_type": "qwen2", "bos_token_id": 400, "eos_token_id": 402, "vocab_size": 448}
    write_json(folder / "config.json", ids)


def clip_merges(folder: Path) -> None:
    """vocab.json and merges.txt of a CLIP: every byte within a word and at its end, merges, names.

    As in the published ones, the tokens with a role are matched in the lower-cased text.
    """
    names = ["<|startoftext|>", "<|endoftext|>"]
    state = json.loads(train_clip(names).to_str())["model"]
    merges = [tuple(merge) for merge in state["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), *names]
    tokens = list(dict.fromkeys(tokens))
    write_json(folder / "vocab.json", {token: id_ for id_, token in enumerate(tokens)}, indent=None)
    lines = "".join(f"{left} {right}\n" for left, right in merges)
    (folder / "merges.txt").write_text("#version: 0.2\n" + lines)
    token = {"__type": "AddedToken"} | added("", normalized=True)
    del token["special"]
    start, end = ({**token, "content": name} for name in names)
    config = {"tokenizer_class": "CLIPTokenizer", "do_lower_case": True, "add_prefix_space": False}
    config |= {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": names[1]}
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "config.json", {"model_type": "clip"})


def marian_pieces(folder: Path) -> None:
    """source.spm, target.spm and vocab.json of a Marian that translates into several languages.

    vocab.json lacks pieces of both sides, and has words that the source's model has no letters of.
    """
    sides = {"source": (SENTENCES[:5] * 4, 90), "target": (SENTENCES, 140)}
    tokens = ["</s>", "<unk>"]
    for side, (sentences, size) in sides.items():
        path = folder / f"{side}.spm"
        normalised_unigram(path, sentences=sentences, vocab_size=size)
        model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        pieces = [model.id_to_piece(id_) for id_ in range(3, model.get_piece_size())]
        tokens += [piece for index, piece in enumerate(pieces) if index % 11 != 5]
    tokens += [">>fra<<", ">>hin<<", HELLO["Chinese"], "\u2014", "<pad>"]
    tokens = list(dict.fromkeys(tokens))
    write_json(folder / "vocab.json", {token: id_ for id_, token in enumerate(tokens)}, indent=None)
    pad = len(tokens) - 1
    config = {"source_lang": "eng", "target_lang": "mul", "model_max_length": 512}
    write_json(folder / "tokenizer_config.json", config)
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": pad, "vocab_size": len(tokens)}
    write_json(folder / "config.json", {"model_type": "marian"} | ids)


FOLDERS: dict[str, Callable[[Path], dict[str, Any] | None]] = {
    function.__name__: function
    for function in (
        json_bytelevel,
        llama_pieces,
        llama_legacy_pieces,
        gemma_pieces,
        t5_pieces,
        xlm_roberta_pieces,
        llama3_ranks,
        qwen_ranks,
        cl100k_ranks,
        o200k_ranks,
        bert_uncased,
        bert_cased,
        gpt2_merges,
        roberta_merges,
        qwen2_merges,
        clip_merges,
        marian_pieces,
    )
}
