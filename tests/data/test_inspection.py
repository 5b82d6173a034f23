import numpy as np

from jaxllm.data import decode_row, describe_dataset
from jaxllm.data.batch import make_batch
from jaxllm.data.loader import ValidationLoader
from jaxllm.data.streams import PreparedStream
from jaxllm.data.tokenizer import ByteTokenizer


def test_a_row_decodes_to_its_segments_with_what_is_scored():
    ids = [*b"end", 256, *b"one", 256, *b"tw", *b"o"]
    batch = make_batch(
        np.array([ids], np.int32), delimiter_id=256, example_index=[0], scored_B=np.array([5])
    )
    segments = decode_row(batch, 0, ByteTokenizer())
    assert [(s.segment_id, s.start, s.stop, s.text, s.scored) for s in segments] == [
        (0, 0, 3, "end", 3),
        (1, 3, 7, "one", 2),
        (2, 7, 10, "tw", 0),
    ]


def test_decoded_rows_of_a_split_are_its_documents(dataset, texts, tokenizer):
    loader = ValidationLoader(
        PreparedStream(dataset, "validation"), name="v", sequence_length=100, global_batch_size=4
    )
    tokens = [batch["tokens"][batch["loss_mask"] == 1] for batch in loader]
    paths = sorted(texts.glob("*.txt"))[9::10]
    assert tokenizer.decode(np.concatenate(tokens)) == "".join(
        p.read_bytes().decode() for p in paths
    )


def test_the_card_counts_what_is_there(dataset, texts):
    card = describe_dataset(dataset)
    sizes = [path.stat().st_size for path in sorted(texts.glob("*.txt"))]
    assert card["splits"]["validation"]["raw_bytes"] == sum(sizes[9::10])
    assert card["splits"]["train"]["documents"] == 54
    assert card["source_files"] == 60
    on_disk = sum(path.stat().st_size for path in dataset.glob("*.array_record*"))
    assert sum(split["bytes_on_disk"] for split in card["splits"].values()) == on_disk
