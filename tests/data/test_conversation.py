import pytest

from jaxllm.data.conversation import conversation_of
from jaxllm.data.dataset_error import DatasetError
from jaxllm.data.example_record import ExampleRecord

ASKED = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def conversation(fields):
    return conversation_of(ExampleRecord(fields, "chats.jsonl:7"))


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": ASKED},
        {"messages": ASKED, "prompt": "Hi", "completion": "not read"},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"conversations": ASKED},
        {
            "conversations": [
                {"from": "human", "value": "Hi", "role": "boss", "content": None},
                {"from": "gpt", "value": "Hello", "role": 3, "content": "another text"},
            ]
        },
        {"prompt": "Hi", "completion": "Hello"},
        {"instruction": "Hi", "output": "Hello", "input": ""},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}],
                },
                {"role": "assistant", "content": "Hello", "name": None},
            ]
        },
    ],
)
def test_every_form_is_the_same_conversation(fields):
    found = conversation(fields)
    assert list(found.messages) == ASKED
    assert (found.tools, found.where) == (None, "chats.jsonl:7")


def test_what_belongs_to_a_conversation_is_kept():
    fields = {"instruction": "Sum up.", "input": "A text.", "output": "Text.", "system": "Be brief"}
    contents = [message["content"] for message in conversation(fields).messages]
    assert contents == ["Be brief", "Sum up.\n\nA text.", "Text."]
    own = [{"role": "system", "content": "S"}, *ASKED]
    assert list(conversation({"messages": own, "system": "other"}).messages) == own
    called = {"role": "assistant", "content": None, "tool_calls": [{"name": "add"}]}
    found = conversation({"messages": [ASKED[0], called], "tools": [{"name": "add"}]})
    assert found.messages[1] == {**called, "content": ""}
    assert found.tools == ({"name": "add"},)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"text": "Hi"}, "no conversation: it has the fields 'text'; give messages or conversat"),
        ({"prompt": "Hi"}, "prompt with completion or instruction with output"),
        ({"messages": []}, "no turn of the assistant"),
        ({"messages": ASKED[:1]}, "no turn of the assistant"),
        ({"messages": "Hi"}, "'messages' is a str, not a list of turns"),
        ({"messages": ["Hi"]}, r"messages\[0\] is a str; give an object"),
        ({"messages": [*ASKED, {"role": "critic"}]}, r"messages\[2\] has the role 'critic'; known"),
        ({"messages": [{"content": "Hi"}]}, r"messages\[0\] has the role None"),
        ({"conversations": [{"from": "cat", "value": "m"}]}, r"\[0\] has the from 'cat'; known"),
        ({"messages": [{"role": "user", "content": 3}]}, r"messages\[0\] says a int, not text"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "says a list, not text"),
        (
            {"messages": [ASKED[0], {"role": "assistant", "content": " "}]},
            r"\[1\], the assistant's",
        ),
        ({"messages": [{"role": "user", "content": "a\ud800"}]}, "a lone surrogate at 1"),
        ({"prompt": "Hi", "completion": ""}, "'completion' is empty"),
        ({"messages": ASKED, "tools": "add"}, "'tools' is no list of JSON schemas"),
    ],
)
def test_what_is_no_conversation_is_refused_by_its_line(fields, problem):
    with pytest.raises(DatasetError, match=problem) as raised:
        conversation(fields)
    assert str(raised.value).startswith("source: chats.jsonl:7: ")
