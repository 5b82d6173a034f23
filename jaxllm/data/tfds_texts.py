"""Labelled texts of a TFDS dataset in a short form: the source's keys stand among the dataset's."""

from typing import Any, Literal

from pydantic import Field, create_model

from jaxllm.data.example_sources import TfdsExamplesConfig
from jaxllm.data.labelled_texts import LabelledTextsConfig
from jaxllm.schema import Config

_TFDS_SOURCE = ("name", "split", "data_dir")


def whole_form(given: Any) -> Any:
    """Of a dataset of type tfds, the labelled texts that it stands for; others as they are.

    `{type: tfds, name: glue/sst2, text: sentence}` are labelled texts whose source that is. A
    validation_split is the validation_source that differs by it.
    """
    if not isinstance(given, dict) or given.get("type") != "tfds":
        return given
    # What would be overwritten, and so not be heeded.
    if "source" in given:
        raise ValueError("a dataset of type tfds is its own source; give name, split and data_dir")
    if given.get("validation_split") is not None and given.get("validation_source") is not None:
        raise ValueError("give validation_split or validation_source, not both")
    own = {name: given[name] for name in _TFDS_SOURCE if name in given}
    whole = {name: value for name, value in given.items() if name not in own}
    whole |= {"type": "labelled_texts", "source": {"type": "tfds", **own}}
    split = whole.pop("validation_split", None)
    if split is not None:
        whole["validation_source"] = {"type": "tfds", **own, "split": split}
    return whole


_KEPT = LabelledTextsConfig.model_fields.keys() - {"type", "source", "validation_source"}
_FIELDS: dict[str, Any] = {
    "type": (Literal["tfds"], Field(description="Kind of dataset: labelled texts of TFDS.")),
    "validation_split": (
        str | None,
        Field(None, description="Split that is held out; null holds out some of split."),
    ),
} | {
    name: (field.annotation, field)
    for kind, names in ((TfdsExamplesConfig, _TFDS_SOURCE), (LabelledTextsConfig, _KEPT))
    for name, field in kind.model_fields.items()
    if name in names
}
TfdsTexts: Any = create_model(
    "TfdsTexts",
    __base__=Config,
    __doc__="Labelled texts of a TFDS dataset: what `whole_form` makes the long form of.",
    **_FIELDS,
)
"""The short form, for the schema that editors read alone."""
