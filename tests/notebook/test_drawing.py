import html
from xml.etree import ElementTree

from jaxllm.notebook.drawing import Drawing, below, beside


def drawing(width, height, text="words"):
    body = f'<rect class="{html.escape(text)}" width="{width}" height="{height}"/>'
    return Drawing(body, width, height, text)


def test_a_notebook_gets_a_picture_with_the_same_in_words():
    bundle = drawing(30, 20, "a <box>")._repr_mimebundle_()
    tree = ElementTree.fromstring(bundle["image/svg+xml"])
    assert (tree.get("width"), tree.get("height")) == ("30", "20")
    assert bundle["text/plain"] == "a <box>"


def test_pictures_stand_below_each_other():
    both = below([drawing(30, 20, "one"), drawing(50, 40, "two")])
    assert (both.width, both.height, both.text) == (50, 60, "one\ntwo")
    assert 'translate(0 20)"><rect class="two"' in both.body


def test_pictures_stand_side_by_side_until_a_row_is_full():
    row = beside([drawing(100, 20, name) for name in "abc"], width=220)
    assert 'translate(116 0)"><rect class="b"' in row.body
    assert 'translate(0 20)"><rect class="c"' in row.body
    assert (row.width, row.height) == (216, 40)


def test_a_picture_is_written_as_a_file(tmp_path):
    path = drawing(10, 10).save(tmp_path / "a.svg")
    assert ElementTree.parse(path).getroot().tag.endswith("svg")
