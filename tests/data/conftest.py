from pathlib import Path

import pytest

from jaxllm.data import load_tokenizer, prepare_dataset
from jaxllm.data.sentence_pieces import SentencePieceTokenizerConfig
from jaxllm.data.text_corpus import TextCorpusConfig

from .texts import document, write_texts

SENTENCEPIECE = SentencePieceTokenizerConfig(vocab_size=512)


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """60 text files, 110 kB in all."""
    return write_texts(tmp_path_factory.mktemp("corpus") / "texts", 60)


@pytest.fixture(scope="session")
def dataset(texts, tmp_path_factory) -> Path:
    """The texts as a dataset of 512 SentencePieces, every tenth document held out."""
    return prepare_dataset(
        TextCorpusConfig(paths=(f"{texts}/*.txt",)),
        tokenizer=SENTENCEPIECE,
        validation_every=10,
        root=tmp_path_factory.mktemp("root"),
        name="texts",
        workers=1,
    )


@pytest.fixture(scope="session")
def tokenizer(dataset):
    return load_tokenizer(dataset / "tokenizer")


@pytest.fixture(scope="session")
def hf_json(tmp_path_factory) -> Path:
    """A byte-level BPE like GPT-2's, in the Hugging Face format."""
    import tokenizers

    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<pad>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator([document(seed) for seed in range(5)], trainer)
    model.enable_truncation(4)  # as many published files have it
    path = tmp_path_factory.mktemp("hf") / "tokenizer.json"
    model.save(str(path))
    return path
