import pytest
from sentencepiece import sentencepiece_model_pb2

from jaxllm.data.sentence_model import parse_model


def test_models_are_read_as_by_the_messages_of_the_package(dataset):
    (file,) = (dataset / "tokenizer").glob("*.model")
    ours = parse_model(file.read_bytes())
    theirs = sentencepiece_model_pb2.ModelProto.FromString(file.read_bytes())
    assert len(ours.pieces) == 512
    _same(ours, theirs)


def test_what_a_model_leaves_out_has_the_default_of_the_package():
    theirs = sentencepiece_model_pb2.ModelProto()
    theirs.pieces.add(piece="a")
    theirs.trainer_spec.self_test_sample_size = 3  # a field that is not declared here
    _same(parse_model(theirs.SerializeToString()), theirs)
    _same(parse_model(b""), sentencepiece_model_pb2.ModelProto())


def test_other_bytes_are_refused():
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        parse_model(b"{not a model}")


def _same(ours, theirs):
    for field in ours.DESCRIPTOR.fields:
        mine, expected = getattr(ours, field.name), getattr(theirs, field.name)
        if field.message_type is None:
            assert mine == expected, field.full_name
            continue
        for one, other in zip(_listed(mine), _listed(expected), strict=True):
            _same(one, other)


def _listed(value):
    """A repeated field is iterated, a single message stands alone."""
    return [value] if hasattr(value, "DESCRIPTOR") else list(value)
