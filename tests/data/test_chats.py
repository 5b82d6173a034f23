"""Conversations as rows. B rows, T length."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxllm.data.batch import batch_shapes, numbered
from jaxllm.data.chat_rows import ChatRows
from jaxllm.data.chats import ChatsConfig
from jaxllm.data.dataset_error import DatasetError
from jaxllm.data.example_record import ExampleRecord
from jaxllm.data.example_table import table_of
from jaxllm.data.huggingface_tokenizer_config import HuggingFaceTokenizerConfig
from jaxllm.data.mixture import DataConfig
from jaxllm.data.tokenizer import ByteTokenizer, load_tokenizer
from jaxllm.kernels.cross_entropy import cross_entropy
from jaxllm.nn.param import bind, param_dict

MODEL = Path(__file__).parents[1] / "golden/hf_tokenizers/json_bytelevel"
BARS = json.loads((MODEL.parent / "chat_templates.json").read_text())["templates"]["bars"]
LENGTH = 256


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    path = tmp_path_factory.mktemp("template") / "bars.jinja"
    path.write_text(BARS)
    return path


@pytest.fixture(scope="module")
def tokenizer(template):
    return HuggingFaceTokenizerConfig(path=str(MODEL), chat_template=str(template)).build()


def records(count=40):
    """Of one to six turns each, so that some are longer than a row; of six groups."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        turns = []
        for turn in range(int(rng.integers(1, 7))):
            turns.append({"role": "user", "content": "a" * int(rng.integers(1, 30))})
            answer = f"{number} {turn} " + "b" * int(rng.integers(1, 20))
            turns.append({"role": "assistant", "content": answer})
        found.append({"messages": turns, "topic": number % 6})
    return found


def write(path, found):
    path.write_text("".join(json.dumps(record) + "\n" for record in found))
    return path


def config(source, **options):
    return ChatsConfig(source={"type": "jsonl", "paths": [str(source)]}, **options)


def data_config(tmp_path, template, **options):
    source = write(tmp_path / "chats.jsonl", records())
    return DataConfig(
        sequence_length=LENGTH,
        global_batch_size=4,
        root=str(tmp_path / "root"),
        tokenizer={"type": "hf", "path": str(MODEL), "chat_template": str(template)},
        datasets={"chats": config(source, **options)},
    )


@pytest.fixture(scope="module")
def table(tokenizer):
    dataset = config("none.jsonl")
    found = [ExampleRecord(fields, "x:1") for fields in records()]
    return table_of([one for record in found for one in dataset.encode(record, tokenizer)])


def rows_of(table, length=LENGTH):
    return ChatRows(table, length, padding_id=0)


def test_each_answer_is_a_target_once_and_nothing_else_is(table, tokenizer):
    rows = rows_of(table)
    batch = rows.read(range(rows.num_rows))
    num_whole = 0
    for row in range(rows.num_rows):
        for segment, number in enumerate(rows.examples_of(row), start=1):
            is_here = batch["segment_ids"][row] == segment
            ids = table["tokens"][number][: 1 + is_here.sum()]
            np.testing.assert_array_equal(batch["tokens"][row][is_here], ids[:-1])
            np.testing.assert_array_equal(batch["targets"][row][is_here], ids[1:])
            is_here &= batch["loss_mask"][row] > 0
            said = tokenizer.decode(batch["targets"][row][is_here])
            turns = records()[number]["messages"][1::2]
            whole = "".join(f"{turn['content']}<|im_end|>" for turn in turns)
            assert whole.startswith(said)
            assert said.endswith("<|im_end|>")
            num_whole += said == whole
    assert num_whole == rows.num_examples - rows.truncated[0]
    assert (batch["loss_mask"][batch["segment_ids"] == 0] == 0).all()


def nll_of(batch):
    """Of each target, by a tiny decoder whose vocabulary is smaller than the tokenizer's."""
    model = tiny.decoder(tiny.config(max_length=LENGTH))

    @tiny.fast
    def nll(params, batch):
        net = bind(model, params)
        x_BTD, _ = net.hidden(
            batch["tokens"] % tiny.VOCAB,
            segment_ids_BT=batch["segment_ids"],
            positions_BT=batch["positions"],
            keys_B=None,
            layout=None,
        )
        return cross_entropy(net.logits(x_BTD, layout=None), batch["targets"] % tiny.VOCAB)[0]

    return np.asarray(nll(param_dict(model), jax.tree.map(jnp.asarray, batch)))


def test_packed_conversations_are_the_unpacked_ones_token_by_token(table):
    """Through a network: what it says of each token does not depend on the rest of the row."""
    rows = rows_of(table)
    packed = rows.read(range(rows.num_rows))
    assert max(len(rows.examples_of(row)) for row in range(rows.num_rows)) > 2
    numbers = np.sort(np.concatenate([rows.examples_of(row) for row in range(rows.num_rows)]))
    alone = [rows_of(table.select(numbers[[i]], fingerprint="")) for i in range(len(numbers))]
    single = {name: np.concatenate([one.read([0])[name] for one in alone]) for name in packed}
    both = {name: np.concatenate([packed[name], single[name]]) for name in packed}
    packed["nll"], single["nll"] = np.split(nll_of(both), [rows.num_rows])
    for row in range(rows.num_rows):
        for segment, number in enumerate(rows.examples_of(row), start=1):
            place = int(np.searchsorted(numbers, number))
            here = packed["segment_ids"][row] == segment
            there = single["segment_ids"][place] == 1
            for name in ("tokens", "targets", "positions", "loss_mask"):
                np.testing.assert_array_equal(packed[name][row][here], single[name][place][there])
            # Float32 sums over keys, whose masked ones stand elsewhere in the two rows.
            np.testing.assert_allclose(
                packed["nll"][row][here], single["nll"][place][there], rtol=1e-5, atol=1e-5
            )


def test_long_conversations_end_at_a_turn_and_are_counted(tokenizer):
    dataset = config("none.jsonl")
    turns = [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "said"}]
    long_answer = [turns[0], {"role": "assistant", "content": "said " * 60}]
    found = [turns, turns * 9, long_answer, turns + long_answer]
    encoded = [dataset.encode(ExampleRecord({"messages": m}, "x:1"), tokenizer)[0] for m in found]
    sizes = [len(one["tokens"]) for one in encoded]
    length = 64
    assert sizes[0] <= length < min(sizes[1:])
    rows = ChatRows(table_of(encoded), length, padding_id=0)
    assert sorted(np.concatenate([rows.examples_of(r) for r in range(rows.num_rows)])) == [0, 1, 3]
    assert rows.num_dropped == 1
    kept = {}
    for row in range(rows.num_rows):
        batch = rows.read([row])
        for segment, number in enumerate(rows.examples_of(row), start=1):
            here = batch["segment_ids"][0] == segment
            kept[int(number)] = 1 + int(here.sum())
            assert batch["loss_mask"][0][here][-1] == 1  # the end of an answer
    assert kept[0] == sizes[0] == kept[3]
    assert kept[1] == max(stop for stop in encoded[1]["stops"] if stop <= length + 1)
    lost = sum(sizes[n] - kept.get(n, 0) for n in range(4))
    assert rows.truncated == (3, lost)
    told = dataset.told([rows], name="mine", length=length)
    assert told[0].startswith(f"mine: 4 conversations are packed in {rows.num_rows} rows, of which")
    assert told[1].startswith(
        "mine: 3 of 4 conversations are longer than data.sequence_length=64: 2 end at an earlier "
        f"turn, 1 are left out as not even the first answer fits, {lost:,} tokens in all"
    )
    with pytest.raises(ValueError, match="sequence_length=8 is too short for the first answer"):
        ChatRows(table_of(encoded), 8, padding_id=0)


def test_groups_are_held_out_whole_and_hosts_read_the_same_rows(tmp_path, template):
    data = data_config(tmp_path, template, group="topic", validation_every=3).build()
    assert {split: rows.num_examples for split, rows in data.examples["chats"].items()} == {
        "train": 27,
        "validation": 13,
    }
    loader = data.train_loader(seed=3)
    whole = [loader.batch(step) for step in range(5)]
    shapes = batch_shapes(4, LENGTH)
    assert {k: (v.shape, v.dtype) for k, v in whole[0].items()} == {
        k: (v.shape, v.dtype) for k, v in shapes.items()
    }
    for step in (4, 1):  # in any order, by any number of hosts
        parts = [data.train_loader(seed=3, rows=rows).batch(step) for rows in ([0], [1, 2, 3])]
        for name, field in whole[step].items():
            np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), field)
    (validation,) = data.validation_loaders().values()
    batches = list(validation)
    rows = data.examples["chats"]["validation"]
    everything = rows.read(range(rows.num_rows))
    assert sum(b["loss_mask"].sum() for b in batches) == everything["loss_mask"].sum()
    assert data.truncations()[0].startswith("chats: 40 conversations are packed in")


def test_another_template_is_another_dataset(tmp_path, template):
    first = data_config(tmp_path, template).build()
    again = data_config(tmp_path, template).build()
    other = tmp_path / "other.jinja"
    other.write_text(BARS.replace("<|user|>", "<|human|>"))
    changed = data_config(tmp_path, other).build()
    folders = [data.folders["chats"] for data in (first, again, changed)]
    assert folders[0] == folders[1] != folders[2]
    kept = data_config(tmp_path, other).build(folders=first.folders)
    assert kept.folders["chats"] == folders[2]
    shorter = first.config.model_copy(update={"sequence_length": 80}).build()
    assert shorter.folders == first.folders
    fingerprints = [data.examples["chats"]["train"].fingerprint for data in (first, changed)]
    assert fingerprints[0] != fingerprints[1]


def test_the_template_goes_along_with_the_tokenizer(tokenizer, template, tmp_path):
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    messages = [{"role": "user", "content": "Hi"}]
    assert loaded.chat_template.render(messages, True) == "<|user|>\nHi<|im_end|>\n<|assistant|>\n"
    assert loaded.originals["chat_template.jinja"] == template.read_bytes()
    assert tokenizer.special_id("<|im_end|>") in loaded.stop_ids


def test_a_turn_that_ends_with_a_special_token_stops_an_answer(tmp_path):
    plain = HuggingFaceTokenizerConfig(path=str(MODEL)).build()
    path = tmp_path / "template.jinja"
    path.write_text(BARS.replace("eos_token", "'<|im_start|>'"))
    other = HuggingFaceTokenizerConfig(path=str(MODEL), chat_template=str(path)).build()
    assert other.stop_ids == (*plain.stop_ids, plain.special_id("<|im_start|>"))


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"messages": [{"role": "user", "content": "Hi"}]}, "no turn of the assistant"),
        ({"prompt": "Hi", "completion": ""}, "'completion' is empty"),
        ({"conversations": [{"from": "cat", "value": "Hi"}]}, "has the from 'cat'"),
    ],
)
def test_a_record_that_is_no_conversation_is_named(tmp_path, template, record, problem):
    found = records()
    found[17] = record
    source = write(tmp_path / "bad.jsonl", found)
    data = data_config(tmp_path, template)
    bad = data.model_copy(update={"datasets": {"chats": config(source)}})
    with pytest.raises(DatasetError, match=problem) as raised:
        bad.build()
    assert str(raised.value).startswith(f"data.datasets.chats.source: {source}:18: ")


def test_a_template_that_refuses_a_conversation_is_told_with_its_line(tmp_path, tokenizer):
    path = tmp_path / "template.jinja"
    path.write_text(
        "{% for m in messages %}{% if loop.index0 and m.role == messages[loop.index0 - 1].role %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.content + eos_token }}"
        "{% endfor %}"
    )
    strict = HuggingFaceTokenizerConfig(path=str(MODEL), chat_template=str(path)).build()
    twice = [{"role": "user", "content": "a"}] * 2 + [{"role": "assistant", "content": "b"}]
    record = ExampleRecord({"messages": twice}, "chats.jsonl:3")
    config("x").encode(record, tokenizer)
    with pytest.raises(
        DatasetError, match=r"^source: chats.jsonl:3: the chat template .* fails at"
    ):
        config("x").encode(record, strict)


def test_conversations_need_a_template(tmp_path, template):
    record = ExampleRecord(records()[0], "x:1")
    with pytest.raises(ValueError, match=r"needs? a chat template.*chat_template: FILE"):
        config("x").encode(record, ByteTokenizer())
    with pytest.raises(ValueError, match=r"data\.tokenizer\.chat_template: there is no file"):
        HuggingFaceTokenizerConfig(path=str(MODEL), chat_template="none.jinja").build()


def test_rows_mix_with_texts(table):
    """A batch has the same fields, whether its rows are of texts or of conversations."""
    rows = rows_of(table)
    batch = numbered(rows.read([0, 1]), [0, 1])
    assert batch.keys() == tiny.batch().keys()
    assert {k: v.dtype for k, v in batch.items()} == {k: v.dtype for k, v in tiny.batch().items()}
