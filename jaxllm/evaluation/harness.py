"""A decoder as the lm-evaluation-harness asks it: for the likelihood of texts, and for texts.

https://github.com/EleutherAI/lm-evaluation-harness, an extra. Questions and answers mean what they
do in its own `HFLM` (lm_eval/models/huggingface.py of 0.4.13), which needs torch.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import batched
from typing import Any, NamedTuple

from jaxllm.data import Tokenizer
from jaxllm.evaluation.scoring import Likelihood, Pair, Scorer
from jaxllm.generation import Generator, Sampling
from jaxllm.nn.param import Nested
from jaxllm.parallel.layouts import Layout

_MAX_TOKENS = 256  # HFLM's `max_gen_toks`, where a task does not say
_TOP_K = 50  # of `transformers`, where a task draws tokens and does not say
_ROWS = 8  # prompts continued at once; each device may hold the cache of all of them

OnDone = Callable[[int], Any]


class Decoding(NamedTuple):
    """How a task wants texts continued: until the first of these strings, which is left out."""

    sampling: Sampling
    until: tuple[str, ...]


def read_decoding(settings: Mapping[str, Any], *, max_length: int) -> Decoding:
    """What a task's `generation_kwargs` ask for.

    ValueError for what a `Generator` cannot do, and where no room is left for a prompt.
    """
    from lm_eval.models.utils import normalize_gen_kwargs

    given = dict(normalize_gen_kwargs(dict(settings), _MAX_TOKENS))
    until = tuple(given.pop("until"))
    asked = {"max_tokens": given.pop("max_gen_toks"), "temperature": given.pop("temperature", 0.0)}
    top_k, top_p = given.pop("top_k", _TOP_K) or None, given.pop("top_p", 1.0)
    if asked["max_tokens"] >= max_length:
        raise ValueError(
            f"generation_kwargs.max_gen_toks is {asked['max_tokens']}, which leaves no room for a "
            f"prompt in {max_length} tokens (data.sequence_length, or --max-length); give fewer in "
            "the task's YAML, or leave the task out"
        )
    try:
        if given.pop("do_sample"):
            asked |= {"top_k": top_k, "top_p": top_p}
            if not asked["temperature"]:
                raise ValueError("do_sample needs a temperature above 0")
        others = {key for key, value in given.items() if (key, value) != ("num_beams", 1)}
        if others:
            raise ValueError(f"{', '.join(sorted(others))} cannot be followed")
        return Decoding(Sampling.model_validate(asked), until)
    except ValueError as error:
        raise ValueError(
            f"generation_kwargs {json.dumps(dict(settings), default=str)}: {error}; until, "
            "max_gen_toks, do_sample, temperature, top_k and top_p are known"
        ) from None


class TextModel:
    """A decoder with its tokenizer, compiled once for any number of evaluations."""

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        max_length: int,
        layout: Layout,
        rows: int,
        has_bos: bool | None = None,
    ) -> None:
        """model: the (abstract) decoder. max_length, rows: see `Scorer`.

        has_bos: whether the delimiter opens each text, and not just one that nothing precedes;
        None is as the tokenizer has it in transformers.
        """
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._model = model
        self._layout = layout
        # Only a Hugging Face tokenizer says so, and knows special tokens within a text.
        self._with_specials = getattr(tokenizer, "encode_with_specials", None)
        if has_bos is None:
            opening = [] if self._with_specials is None else self._with_specials("a").ids[:1]
            has_bos = list(opening) == [tokenizer.delimiter_id]
        self._has_bos = has_bos
        self._scorer = Scorer(
            model,
            vocab_size=tokenizer.vocab_size,
            max_length=max_length,
            layout=layout,
            rows=rows,
        )
        self._generators: dict[Sampling, Generator] = {}

    def encode(self, text: str, *, has_bos: bool | None = None) -> list[int]:
        """The ids of a text, opened by the delimiter or not.

        None is as the model has it, and adds none to a text that spells one.
        """
        if self._with_specials is None:
            ids = self.tokenizer.encode(text).tolist()
        else:
            ids = self._with_specials(text, add=False).ids.tolist()
        opening = [self.tokenizer.delimiter_id]
        if has_bos is None:
            has_bos = self._has_bos and ids[:1] != opening
        return [*opening, *ids] if has_bos else ids

    def score(self, params: Nested, pairs: Sequence[Pair], *, on_done: OnDone) -> list[Likelihood]:
        """See `Scorer`. on_done: told the number of pairs that are under way."""
        return self._scorer(params, pairs, on_scored=on_done)

    def score_texts(self, params: Nested, texts: Sequence[str], *, on_done: OnDone) -> list[float]:
        """log p of whole texts behind a delimiter, each token once, in windows of `max_length`."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        windows, owners = [], []
        for number, text in enumerate(texts):
            for window in get_rolling_token_windows(
                token_list=self.encode(text),
                prefix_token=self.tokenizer.delimiter_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                windows.append(Pair(*make_disjoint_window(window)))
                owners.append(number)
        totals = [0.0] * len(texts)
        found = self.score(params, windows, on_done=on_done)
        for number, likelihood in zip(owners, found, strict=True):
            totals[number] += likelihood.log_prob
        return totals

    def continue_texts(
        self,
        params: Nested,
        requests: Sequence[tuple[str, Mapping[str, Any]]],
        *,
        on_done: OnDone,
    ) -> list[str]:
        """Continues each text as its `generation_kwargs` say."""
        groups: dict[Decoding, list[int]] = {}
        for number, (_, settings) in enumerate(requests):
            decoding = read_decoding(settings, max_length=self.max_length)
            groups.setdefault(decoding, []).append(number)
        found: dict[int, str] = {}
        for decoding, numbers in groups.items():
            texts = [requests[number][0] for number in numbers]
            new = self._continue_alike(params, texts, decoding, on_done)
            found.update(zip(numbers, new, strict=True))
        return [found[number] for number in range(len(requests))]

    def _continue_alike(
        self, params: Nested, texts: Sequence[str], decoding: Decoding, on_done: OnDone
    ) -> list[str]:
        from lm_eval.models.utils import postprocess_generated_text

        room = self.max_length - decoding.sampling.max_tokens
        prompts = [self.encode(text)[-room:] or [self.tokenizer.delimiter_id] for text in texts]
        longest_first = sorted(range(len(texts)), key=lambda n: (-len(prompts[n]), texts[n]))
        # A row's draws follow from its place in the batch. Equal texts are neighbours, and so of
        # different rows; where they are more than there are rows, batches need other seeds.
        num_seeds = -(-max(Counter(texts).values()) // _ROWS)
        found: dict[int, str] = {}
        for index, numbers in enumerate(batched(longest_first, _ROWS)):
            sampling = decoding.sampling
            if sampling.temperature:
                sampling = sampling.model_copy(update={"seed": index % num_seeds})
            rows = [prompts[number] for number in numbers]
            rows += rows[-1:] * (_ROWS - len(rows))
            for number, ids in zip(numbers, self._generator(sampling)(params, rows), strict=False):
                text = self.tokenizer.decode(ids)
                found[number] = postprocess_generated_text(text, list(decoding.until), None)
            on_done(len(numbers))
        return [found[number] for number in range(len(texts))]

    def _generator(self, sampling: Sampling) -> Generator:
        if sampling not in self._generators:
            self._generators[sampling] = Generator(
                self._model,
                vocab_size=self.tokenizer.vocab_size,
                stop_ids=self.tokenizer.stop_ids,
                sampling=sampling,
                layout=self._layout,
            )
        return self._generators[sampling]


def harness_model(
    model: TextModel,
    params: Nested,
    *,
    is_shown: bool,
    on_done: Callable[[], None] = lambda: None,
) -> Any:
    """The model as an `lm_eval.api.model.LM`; several processes must ask it the same.

    is_shown: whether it shows, on a terminal, how far it is. on_done: called after each batch.
    """
    from lm_eval.api.model import TemplateLM
    from tqdm import tqdm

    is_hidden = None if is_shown else True  # None: where there is no terminal

    def bar(name: str, total: int | None) -> Any:
        return tqdm(desc=name, total=total, disable=is_hidden)

    def telling(shown: Any) -> OnDone:
        def tell(count: int) -> None:
            shown.update(count)
            on_done()

        return tell

    class JaxllmModel(TemplateLM):
        """How `TemplateLM`, which HFLM extends too, cuts texts in context and continuation."""

        eot_token_id = model.tokenizer.delimiter_id
        max_length = model.max_length

        def tok_encode(
            self, string: str, add_special_tokens: bool | None = None, **_: Any
        ) -> list[int]:
            return model.encode(string, has_bos=add_special_tokens)

        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
            return super().loglikelihood(requests, disable_tqdm=is_hidden)

        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[Likelihood]:
            pairs = [Pair(context, continuation) for _, context, continuation in requests]
            with bar("likelihoods", len(pairs)) as shown:
                return model.score(params, pairs, on_done=telling(shown))

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
            texts = [request.args[0] for request in requests]
            with bar("windows", None) as shown:
                return model.score_texts(params, texts, on_done=telling(shown))

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            asked = [request.args for request in requests]
            with bar("texts", len(asked)) as shown:
                return model.continue_texts(params, asked, on_done=telling(shown))

    return JaxllmModel()
