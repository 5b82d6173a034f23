"""Which weights networks share whose heads differ."""

from jaxllm.models import DecoderConfig, EncoderConfig
from jaxllm.models.other_head import has_same_head, shared_paths

NETWORK = ("blocks", "kernel")
POOLER, VOCABULARY, LABELS = (("pooler", "x"), ("vocabulary_head", "x"), ("label_head", "x"))


def test_a_head_is_another_by_its_kind_and_its_classes():
    masked = EncoderConfig(head="masked_lm")
    two, three = (EncoderConfig(head="sequence", num_labels=n) for n in (2, 3))
    assert has_same_head(two, two)
    assert not has_same_head(two, three)
    assert not has_same_head(two, masked)
    assert has_same_head(DecoderConfig(num_layers=1, embed_dim=8, num_heads=1), masked)


def test_what_both_have_is_shared_but_for_the_classes():
    ours = {NETWORK, POOLER, LABELS}
    assert shared_paths(ours, {NETWORK, VOCABULARY}) == {NETWORK}
    assert shared_paths(ours, {NETWORK, POOLER, LABELS}) == {NETWORK, POOLER}
    # What any network has is asked for, so that another architecture is told.
    assert shared_paths(ours, {POOLER}) == {NETWORK, POOLER}
