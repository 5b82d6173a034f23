"""What figures need beside jaxllm's own dependencies."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs_finetune(what: str) -> Iterator[None]:
    """ValueError, saying how to install it, where an import inside fails for `what`."""
    try:
        yield
    except ImportError as error:
        raise ValueError(
            f"{what} need the package {error.name}: pip install 'jaxllm[finetune]'"
        ) from error
