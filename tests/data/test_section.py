import pytest
from pydantic import TypeAdapter, ValidationError

from jaxllm.data.section import DataSection

SIZES = {"sequence_length": 16, "global_batch_size": 2}
ONE = {"type": "tfds", "name": "glue/sst2", "text": "sentence", "label": "label"}
SECTION = TypeAdapter(DataSection)


def test_one_tfds_dataset_is_a_section():
    short = SECTION.validate_python({**ONE, **SIZES, "shuffle": False})
    long = SECTION.validate_python({"datasets": {"glue_sst2": ONE}, **SIZES, "shuffle": False})
    assert short == long
    assert short.datasets["glue_sst2"].source.name == "glue/sst2"
    assert SECTION.validate_python(short.model_dump(mode="json")) == short


def test_an_unknown_key_is_told_as_the_datasets_own():
    with pytest.raises(ValidationError, match=r"datasets\.glue_sst2\.labelled_texts\.txet"):
        SECTION.validate_python({**ONE, **SIZES, "txet": "sentence"})


def test_a_section_is_not_both():
    with pytest.raises(ValidationError, match="it has `datasets` too"):
        SECTION.validate_python({**ONE, **SIZES, "datasets": {"other": ONE}})


def test_editors_know_both_forms():
    schema = SECTION.json_schema()
    forms = {form["$ref"].rsplit("/", 1)[1] for form in schema["anyOf"]}
    assert forms == {"DataConfig", "TfdsData"}
    known = schema["$defs"]["TfdsData"]
    assert {*ONE, *SIZES, "validation_split"} <= known["properties"].keys()
    assert not known["additionalProperties"]
