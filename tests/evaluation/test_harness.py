"""What the lm-evaluation-harness asks of a model, and what it is told."""

import jax
import jax.numpy as jnp
import local_tasks
import numpy as np
import pytest
import tiny
import tokenizers

from jaxllm.data.tokenizer import ByteTokenizerConfig, HuggingFaceTokenizer
from jaxllm.evaluation.harness import Decoding, TextModel, harness_model, read_decoding
from jaxllm.evaluation.scoring import Likelihood
from jaxllm.generation import Generator, Sampling
from jaxllm.nn.param import spec_dict
from jaxllm.parallel.mesh import ParallelConfig

local_tasks.require_harness()
from lm_eval.api.instance import Instance  # noqa: E402

TOKENIZER = ByteTokenizerConfig().build()
BOS = TOKENIZER.delimiter_id
DECODER = jax.eval_shape(lambda: tiny.config(num_layers=1).build(jax.random.key(0), 320))
LONGEST = 32
LAYOUT = ParallelConfig(layout="fsdp").build()


class Asked(TextModel):
    """Keeps the pairs that it is asked for, and says that token i of them costs i."""

    def score(self, params, pairs, *, on_done):
        self.pairs = [(list(context), list(continuation)) for context, continuation in pairs]
        on_done(len(pairs))
        return [Likelihood(float(-sum(ids)), len(ids) == 1) for _, ids in self.pairs]


def text_model(kind=TextModel, **options):
    settings = {"tokenizer": TOKENIZER, "max_length": LONGEST, "layout": LAYOUT, "rows": 8}
    return kind(DECODER, **(settings | options))


def requests(kind, arguments):
    return [
        Instance(request_type=kind, doc={}, arguments=one, idx=number)
        for number, one in enumerate(arguments)
    ]


def ask(model, kind, arguments, params=None):
    told = getattr(harness_model(model, params, is_shown=False), kind)(requests(kind, arguments))
    assert len(told) == len(arguments)
    return told


def codes(text):
    return list(text.encode())


def test_spaces_at_the_end_of_a_context_belong_to_the_continuation():
    model = text_model(Asked)
    told = ask(model, "loglikelihood", [("a b  ", "c"), ("a", " b"), ("", "x"), ("", "xy")])
    assert model.pairs == [
        (codes("a b"), codes("  c")),
        (codes("a"), codes(" b")),
        ([BOS], codes("x")),
        ([BOS], codes("xy")),
    ]
    assert told == [(-sum(ids), len(ids) == 1) for _, ids in model.pairs]


def test_a_delimiter_opens_every_text_where_it_is_asked_for():
    model = text_model(Asked, has_bos=True)
    ask(model, "loglikelihood", [("a b ", "c"), ("", "x")])
    assert model.pairs == [([BOS, *codes("a b")], codes(" c")), ([BOS], codes("x"))]
    ask(model, "loglikelihood_rolling", [("ab",)])
    assert model.pairs == [([BOS], [BOS, *codes("ab")])]  # as HFLM has it: bos is scored too


def test_a_tokenizer_of_hugging_face_opens_texts_if_it_does_so_itself():
    plain = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1, "?": 2}, [], unk_token="?"))
    plain.add_special_tokens(["<s>", "<mark>"])
    opening = tokenizers.Tokenizer.from_str(plain.to_str())
    opening.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 3)]
    )

    def ids(kind, text, **options):
        tokenizer = HuggingFaceTokenizer(kind.to_str().encode(), delimiter="<s>", name="it")
        return text_model(tokenizer=tokenizer, **options).encode(text)

    assert ids(plain, "ab") == [0, 1]
    assert ids(plain, "ab", has_bos=True) == [3, 0, 1]
    assert ids(opening, "ab") == [3, 0, 1]
    assert ids(opening, "ab", has_bos=False) == [0, 1]
    assert ids(opening, "<s>a<mark>") == [3, 0, 4]  # as in transformers, special tokens are parsed


def test_a_text_is_scored_in_windows_and_each_token_once():
    model = text_model(Asked, max_length=8)
    text = "abcdefghijklmnopqrst"
    told = ask(model, "loglikelihood_rolling", [(text,), ("zz",), ("",)])
    assert model.pairs == [
        ([BOS], codes("abcdefgh")),
        (codes("h"), codes("ijklmnop")),
        (codes("lmnop"), codes("qrst")),  # the last has all the context there may be
        ([BOS], codes("zz")),
    ]
    assert told == [-sum(codes(text)), -sum(codes("zz")), 0]


@pytest.fixture(scope="module")
def network():
    """A decoder of bytes with random weights, its model of texts, and quick programs."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda spec: jnp.asarray(rng.normal(size=spec.shape), jnp.float32), spec_dict(DECODER)
    )
    yield text_model(), params
    jax.config.update("jax_disable_most_optimizations", before)


def continued(params, texts):
    """Four bytes behind each text, by the generator alone."""
    generate = Generator(
        DECODER,
        vocab_size=TOKENIZER.vocab_size,
        stop_ids=(BOS,),
        sampling=Sampling(temperature=0, max_tokens=4),
        layout=LAYOUT,
    )
    room = LONGEST - 4
    ids = generate(params, [(codes(text) or [BOS])[-room:] for text in texts])
    return [TOKENIZER.decode(new) for new in ids]


def test_texts_are_continued_until_a_string_in_the_order_of_the_requests(network):
    texts = ["war", "", "peace and " * 9, "law of the people", "a"]
    plain = {"until": [], "max_gen_toks": 4}
    expected = continued(network[1], texts)
    told = ask(network[0], "generate_until", [(text, plain) for text in texts], network[1])
    assert told == expected
    assert len({*expected}) > 2
    # A letter inside of one of them; the text itself is asked for once more without it.
    where, stop = next(
        (number, letter)
        for number, text in enumerate(expected)
        for letter in text[1:]
        if letter.isascii()
    )
    until = [(text, {"until": ["never", stop], "max_gen_toks": 4}) for text in texts]
    mixed = ask(network[0], "generate_until", [*until, (texts[where], plain)], network[1])
    assert mixed == [*(text.split(stop)[0] for text in expected), expected[where]]
    assert 0 < len(mixed[where]) < len(expected[where])


def test_draws_differ_between_equal_texts_and_follow_from_the_requests(network):
    settings = {"do_sample": True, "temperature": 2.0, "top_k": 0, "max_gen_toks": 4, "until": []}
    asked = [("law", settings)] * 11 + [("war", settings)]
    told = ask(network[0], "generate_until", asked, network[1])
    assert len({*told[:11]}) == 11  # though a batch has eight rows
    assert told == ask(network[0], "generate_until", asked, network[1])


def test_generation_settings_are_read_as_by_hflm():
    def read(**given):
        return read_decoding(given, max_length=1024)

    greedy = Sampling(temperature=0, max_tokens=256)
    assert read() == Decoding(greedy, ())
    assert read(until="\n", temperature=0.0) == Decoding(greedy, ("\n",))
    assert read(do_sample=False, temperature=0.7, top_p=0.9) == Decoding(greedy, ())
    assert read(until=["a"], max_new_tokens=8, num_beams=1).sampling.max_tokens == 8
    drawn = read(temperature=0.5, top_p=0.9).sampling
    # 50 is what transformers take where nobody says.
    assert drawn == Sampling(temperature=0.5, top_k=50, top_p=0.9, max_tokens=256)
    assert read(do_sample=True, temperature=1.0, top_k=None).sampling.top_k is None


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"num_beams": 4}, r'"num_beams": 4.*: num_beams cannot be followed; until, max_gen_toks'),
        ({"do_sample": True}, "do_sample needs a temperature above 0"),
        ({"temperature": 1.0, "top_p": 0}, r"top_p"),
        ({"max_gen_toks": 1024}, r"max_gen_toks is 1024, .* no room .* in 1024 tokens \(data\.seq"),
    ],
)
def test_settings_that_cannot_be_followed(given, problem):
    with pytest.raises(ValueError, match=f"(?s)generation_kwargs.*{problem}"):
        read_decoding(given, max_length=1024)
