"""The `data` section of a config, in whole or, where one TFDS dataset is all, in a short form."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, create_model

from jaxllm.data.mixture import DataConfig
from jaxllm.data.tfds_texts import TfdsTexts

_COMMON = DataConfig.model_fields.keys() - {"datasets"}


def whole_section(given: Any) -> Any:
    """Of a section of type tfds, the one with the dataset in `datasets`; others as they are.

    `{type: tfds, name: glue/sst2, text: sentence, sequence_length: 128, ...}` has one dataset,
    glue_sst2. ValueError for a section that is both.
    """
    if not isinstance(given, dict) or given.get("type") != "tfds":
        return given
    if "datasets" in given:
        raise ValueError(
            "type: tfds makes the section one dataset, but it has `datasets` too; leave out `type` "
            "and put that dataset among them"
        )
    section = {name: value for name, value in given.items() if name in _COMMON}
    dataset = {name: value for name, value in given.items() if name not in _COMMON}
    name = re.sub(r"\W+", "_", str(given.get("name", "tfds"))).strip("_")
    return {**section, "datasets": {name: dataset}}


_FIELDS: dict[str, Any] = {
    name: (field.annotation, field)
    for kind in (DataConfig, TfdsTexts)
    for name, field in kind.model_fields.items()
    if name in _COMMON or kind is TfdsTexts
} | {"type": (Literal["tfds"], TfdsTexts.model_fields["type"])}
_OneTfds: Any = create_model(
    "TfdsData",
    __base__=TfdsTexts,
    __doc__="Labelled texts of one TFDS dataset: what `whole_section` makes the whole form of.",
    **_FIELDS,
)
DataSection = Annotated[
    DataConfig, BeforeValidator(whole_section, json_schema_input_type=DataConfig | _OneTfds)
]
