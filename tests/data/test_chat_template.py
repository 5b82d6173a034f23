import json
from datetime import datetime
from pathlib import Path

import pytest

from jaxllm.data import chat_sandbox
from jaxllm.data.chat_template import ChatTemplate, named_templates

# What transformers renders; see scripts/hf_chat_reference.py.
GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden/hf_tokenizers/chat_templates.json").read_text()
)
CASES = [(name, chat) for name, chats in GOLDEN["results"].items() for chat in chats]
HI = [{"role": "user", "content": "Hi"}]


def template(source: str | dict) -> ChatTemplate:
    return ChatTemplate(source, special_tokens=GOLDEN["specials"])


@pytest.mark.parametrize(("name", "chat"), CASES)
def test_conversations_read_as_in_transformers(name, chat):
    shape = template(GOLDEN["templates"][name])
    given, expected = GOLDEN["chats"][chat], GOLDEN["results"][name][chat]
    if "error" in expected:
        with pytest.raises(ValueError) as raised:
            shape.render(**given)
        assert str(raised.value).endswith(f": {expected['error']}")
    else:
        assert shape.render(**given) == expected["text"]
        rendered = shape.render_with_spans(**given)
        assert rendered.text == expected["text"]
        assert [list(span) for span in rendered.assistant_spans] == expected["spans"]


@pytest.mark.parametrize(
    ("name", "chat", "place"),
    [("inst", "twice_user", "message 1 (user)"), ("headers", "unknown_role", "message 1 (critic)")],
)
def test_a_refused_conversation_names_the_message(name, chat, place):
    with pytest.raises(ValueError, match="the chat template fails at") as raised:
        template(GOLDEN["templates"][name]).render(**GOLDEN["chats"][chat])
    assert place in str(raised.value)


def test_spans_are_where_the_assistant_speaks_in_macros_too():
    shape = template(
        "{% macro say(m) %}[{% generation %}{{ m.content }}{% endgeneration %}]{% endmacro %}"
        "{% set all %}{% for m in messages %}{{ say(m) }}{% endfor %}{% endset %}> {{ all }}"
    )
    rendered = shape.render_with_spans([{"content": "\U0001f600 one"}, {"content": ""}])
    assert rendered.text == "> [\U0001f600 one][]"
    assert rendered.assistant_spans == ((3, 8), (10, 10))


def test_spans_of_text_that_is_changed_afterwards_are_refused():
    for change in ("upper", "truncate(3)", "trim"):
        source = "{% set x %} {% generation %} a b {% endgeneration %} {% endset %}{{ x | CHANGE }}"
        shape = template(source.replace("CHANGE", change))
        shape.render(HI)
        with pytest.raises(ValueError, match="changes the text of its generation blocks"):
            shape.render_with_spans(HI)


def test_named_templates_are_chosen_by_name_or_for_tools():
    shape = template({"default": "plain", "tool_use": "{{ tools[0].name }}", "rag": "documents"})
    assert shape.render(HI) == "plain"
    assert shape.render(HI, tools=[{"name": "add"}]) == "add"
    assert shape.render(HI, tools=[{"name": "add"}], template="rag") == "documents"
    with pytest.raises(ValueError, match="no template 'nope'; it has default, tool_use, rag"):
        shape.render(HI, template="nope")


def test_templates_of_a_tokenizer_config_are_one_text_or_named_ones():
    listed = [{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}]
    assert named_templates("a", name="x") == {"default": "a"}
    assert named_templates(listed, name="x") == {"default": "a", "rag": "b"}
    assert named_templates({"default": "a"}, name="x") == {"default": "a"}
    for wrong in (3, [{"name": "default"}], ["a"], {"default": 1}, None):
        with pytest.raises(ValueError, match=r"^x is .*it must be a text, or a list"):
            named_templates(wrong, name="x")


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.append(messages[0]) }}",
        "{{ messages[0].update(role='system') }}",
        "{{ messages[0].pop('role') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages[0]._read.clear() }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ strftime_now.__self__.year }}",
        "{{ self._TemplateReference__context.vars }}",
        "{{ '{0.__class__.__mro__}'.format(messages) }}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(source):
    with pytest.raises(ValueError, match=r"fails.*(unsafe|not safely)"):
        template(source).render(HI)


def test_what_a_template_is_given():
    shape = template("{{ bos_token }}{{ tools is none }}{{ x.y }}{{ documents }}{{ z is defined }}")
    assert shape.render(HI, x={"y": ("a", 1)}) == "<s>True['a', 1]NoneFalse"
    assert template("{{ strftime_now('%Y') | int > 2000 }}").render(HI) == "True"
    shape = template("{{ messages[0].content is defined }}{{ messages[0].items() | list }}")
    assert shape.render([{"role": "user", "content": None}]) == "False[('role', 'user')]"


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([], "there is no message"),
        ([*HI, "Hi"], "message 1 is 'Hi'"),
        ([{"content": object()}], r"message 0\.content is a object"),
        ([{"content": [{"image": b"png"}]}], r"message 0\.content\[0\]\.image is a bytes"),
    ],
)
def test_what_is_no_conversation_is_refused(messages, problem):
    with pytest.raises(ValueError, match=problem):
        template("").render(messages)


def test_a_broken_template_is_an_error_when_it_is_used():
    shape = ChatTemplate("one\n{% for m in messages %}", name="x/chat_template.jinja")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^x/chat_template\.jinja is not a Jinja template: l"):
            shape.render(HI)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10**10 }}",
        "{{ 10**10 * 'a' }}",
        "{{ [0] * 10**10 }}",
        "{{ 10 ** (10**9) }}",
        "{% set n = namespace(x=3) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "{{ '%9999999999d' % 1 }}",
        "{{ '%(x)-9999999999d' % {'x': 1} }}",
        "{{ '%.9999999999f' % 1 }}",
        "{{ '%*d' % (9999999999, 1) }}",
        "{{ '%*d' | format(9999999999, 1) }}",
        "{{ '{:9999999999}'.format(1) }}",
        "{{ '{:{w}}'.format(1, w='9999999999') }}",
        "{{ '{x:9999999999}'.format_map({'x': 1}) }}",
        "{{ ('{:9999999999}' | safe).format(1) }}",
        "{{ 'a'.center(9999999999) }}",
        "{{ 'a'.ljust(9999999999, '-') }}",
        "{{ '\t'.expandtabs(tabsize=9999999999) }}",
        "{{ 'a' | center(9999999999) }}",
        "{{ ['a'] | map('center', 9999999999) | list }}",
        "{{ 'a' | indent(9999999999, true) }}",
        "{{ [1] | batch(9999999999, 0) | list }}",
        "{{ messages | tojson(indent=9999999999) }}",
        "{% for i in range(9999) %}{{ 'a' * 10000 }}{% endfor %}",
    ],
)
def test_what_would_fill_the_memory_is_refused(source):
    with pytest.raises(ValueError, match=r"fails.*more than (50000000 c|10000 bits)"):
        template(source).render(HI)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ '-' * 3 }}{{ 2 * 3.5 }}{{ 2 ** 10 }}{{ 7 % 4 }}{{ [0] * 2 }}", "---7.010243[0, 0]"),
        ("{{ '%5.1f|%-3s|%%|%*d' % (2.25, 'a', 3, 1) }}", "  2.2|a  |%|  1"),
        ("{{ '%s 99999999999 %s' | format(99999999999, 'a') }}", "99999999999 99999999999 a"),
        ("{{ '%(x)s' | format(x=1) }}", "1"),
        ("{{ '{:>4}{x}{:{w}}|'.format('a', 'b', x=99999999999, w=2) }}", "   a99999999999b |"),
        ("{{ '{x}'.format_map({'x': 1}) }}{{ ('{}' | safe).format('<') }}", "1&lt;"),
        ("{{ 'a'.center(3) }}{{ 'a' | center(3) }}{{ 'a'.zfill(2) }}", " a  a 0a"),
        ("{{ {'a': 99999999999} | tojson(indent=1) }}", '{\n "a": 99999999999\n}'),
    ],
)
def test_what_is_of_a_usual_size_is_as_ever(source, text):
    assert template(source).render(HI) == text


def test_what_exhausts_memory_or_the_stack_is_an_error_of_the_template(monkeypatch):
    def exhaust(*_):
        raise MemoryError

    endless = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"
    with pytest.raises(ValueError, match="the chat template fails: maximum recursion depth"):
        template(endless).render(HI)
    with pytest.raises(ValueError, match="is too deep or too large to be compiled: maximum rec"):
        template("{{ " + "(" * 9999 + ")" * 9999 + " }}").render(HI)
    blocks = "{% for x in y %}" * 30 + "{% endfor %}" * 30
    with pytest.raises(ValueError, match="is too deep or too large to be compiled: too many"):
        template(blocks).render(HI)
    monkeypatch.setattr("jaxllm.data.chat_sandbox.to_json", exhaust)
    with pytest.raises(ValueError, match=r"message 0 \(user\): it needs more memory than there"):
        template("{{ messages[0].role | tojson }}").render(HI)


def test_at_another_moment_it_is_not_compiled_again(monkeypatch):
    """As for each record of a dataset: that takes longer than all the rest of it."""
    made = []
    make = chat_sandbox.make_sandbox
    monkeypatch.setattr(chat_sandbox, "make_sandbox", lambda: made.append(1) or make())
    template = ChatTemplate("{{ strftime_now('%Y') }} {{ messages[0].content }}")
    for year in (2020, 2021, 2022):
        text = template.at(datetime(year, 1, 1)).render([{"role": "user", "content": "Hi"}])
        assert text == f"{year} Hi"
    assert len(made) == 1
