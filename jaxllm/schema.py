"""The base class of every config: frozen, strict about unknown keys, one sentence a field.

A config class stands beside what it builds and has a `build()`. Each field is followed by a
docstring that says, in one sentence, what it is and in which unit; `jaxllm train --help` and
the JSON schema show that sentence.
"""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Base of every config. Frozen and hashable, so a config can be a static argument of jit."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )
