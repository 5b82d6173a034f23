"""The base class of every config: frozen, strict about unknown keys, one sentence a field.

A config class stands beside what it builds and has a `build()`. Each field is followed by a
docstring that says, in one sentence, what it is and in which unit; `jaxllm train --help` and
the JSON schema show that sentence.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Config(BaseModel):
    """Base of every config. Frozen and hashable, so a config can be a static argument of jit."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    @model_validator(mode="before")
    @classmethod
    def _default_kinds(cls, given: Any) -> Any:
        """A section without its `type` is of the kind that it has by default, if it has one."""
        if not isinstance(given, dict):
            return given
        kinds = {
            name: {"type": field.default.type, **given[name]}
            for name, field in cls.model_fields.items()
            if field.discriminator
            and hasattr(field.default, "type")
            and isinstance(given.get(name), dict)
        }
        return {**given, **kinds}
