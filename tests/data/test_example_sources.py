"""Where examples come from: all sources give the same records, and say which one is wrong."""

import csv
import gzip

import pytest
from pydantic import TypeAdapter

from jaxllm.data.example_tables import TableExamplesConfig
from jaxllm.data.labelled_texts import LabelledTextsConfig

from .labelled import build, decoded, records, write_jsonl


def read(source):
    adapter = TypeAdapter(LabelledTextsConfig)
    one = adapter.validate_python({"source": source, "labels": ["a", "b"], "validation_every": 0})
    return list(one.source.records())


def test_every_source_gives_the_same_records(tmp_path):
    import pyarrow
    import pyarrow.parquet

    fields = [{"text": record["text"], "label": record["label"]} for record in records(3)]
    write_jsonl(tmp_path / "a.jsonl", fields)
    with gzip.open(tmp_path / "a.jsonl.gz", "wb") as file:
        file.write((tmp_path / "a.jsonl").read_bytes())
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(fields), tmp_path / "a.parquet")
    with (tmp_path / "a.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["text", "label"])
        table.writeheader()
        table.writerows(fields)
    lines = ["text\tlabel", *(f"{field['text']}\t{field['label']}" for field in fields)]
    (tmp_path / "a.tsv").write_text("\n".join(lines) + "\n")
    kinds = {"a.jsonl": "jsonl", "a.jsonl.gz": "jsonl", "a.parquet": "parquet", "a.csv": "table"}
    for name, kind in {**kinds, "a.tsv": "table"}.items():
        found = read({"type": kind, "paths": [str(tmp_path / name)]})
        assert [dict(record.fields) for record in found] == fields, name
        assert all(str(tmp_path / name) in record.where for record in found)


def test_cells_may_have_lines_and_be_long_and_rows_go_by_their_first_line(tmp_path):
    path = tmp_path / "a.csv"
    long = "y" * 200_000
    path.write_text(f'text,label\n"one\ntwo",a\n"{long}",b\nthree,a\n')
    limit = csv.field_size_limit()
    found = read({"type": "table", "paths": [str(path)]})
    assert [record.where for record in found] == [f"{path}:{line}" for line in (2, 4, 5)]
    assert found[0].fields["text"] == "one\ntwo"
    assert found[1].fields["text"] == long
    assert csv.field_size_limit() == limit, "of the process, which others use too"


def test_tables_that_are_read_by_turns_may_have_long_cells(tmp_path):
    limit, texts = csv.field_size_limit(), ["x" * 300_000, "y" * 300_000]
    path = tmp_path / "a.csv"
    path.write_text("text\n" + "\n".join(texts) + "\n")
    source = TableExamplesConfig(paths=(str(path),))
    first, second = source.records(), source.records()
    found = [next(reader).fields["text"] for reader in (first, second, first)]
    assert found == [texts[0], texts[0], texts[1]]
    assert not list(first)
    assert next(second).fields["text"] == texts[1]
    assert csv.field_size_limit() == limit


def test_a_field_may_be_another_file_but_none_outside(tmp_path):
    (tmp_path / "speeches").mkdir()
    (tmp_path / "speeches" / "one.txt").write_text("all of it\n")
    path = tmp_path / "a.csv"
    source = {
        "type": "table",
        "paths": [str(path)],
        "files": {"speech": f"{tmp_path}/speeches/{{file}}.txt"},
    }
    path.write_text("file,label\none,a\n")
    (record,) = read(source)
    assert record.text("speech", key="text") == "all of it\n"
    for cell, message in (
        ("two", r"a\.csv:2: it names .*two\.txt, and there is no such file"),
        ("../a", r"a\.csv:2: 'file' is '\.\./a', which names no file below"),
        ("/etc/passwd", r"which names no file below"),
    ):
        path.write_text(f"file,label\n{cell},a\n")
        with pytest.raises(ValueError, match=message):
            read(source)


def test_fields_that_change_their_files_are_another_dataset(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("name,label\none,a\n")
    for folder in "xy":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "one.txt").write_text(folder)
    found = []
    for text, other in ("xy", "yx"):
        # The same files in the same order, by other names.
        files = {"text": f"{tmp_path}/{text}/{{name}}.txt", "z": f"{tmp_path}/{other}/{{name}}.txt"}
        source = {
            "type": "table",
            "paths": [str(path)],
            "files": dict(sorted(files.items(), key=lambda one: one[1])),
        }
        data = build(path, tmp_path, source=source, validation_every=0)
        found.append(decoded(data.examples["texts"]["train"], 0))
    assert found == ["x", "y"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text,label\na,b,c\n", r"a\.csv:2: 3 cells, but 2 fields"),
        ('text,label\n"a,b\n', r"a\.csv:2: not a row of a table"),
        ("text,text\na,b\n", r"a\.csv:1: the first line must name each field once"),
        (b"text,label\na,b\n\xff,b\n", r"a\.csv:3: not UTF-8"),
    ],
)
def test_a_table_that_is_none_is_told_with_its_line(tmp_path, text, message):
    path = tmp_path / "a.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        read({"type": "table", "paths": [str(path)]})
