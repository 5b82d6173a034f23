"""What figures need beside jaxllm's own dependencies."""

import importlib.util
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


def check_finetune(packages: Iterable[str]) -> None:
    """ValueError, saying how to install it, for a package of figures that is not there."""
    for name in packages:
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"figures of this task need the package {name}: pip install 'jaxllm[finetune]'"
            )


@contextmanager
def needs_finetune(what: str) -> Iterator[None]:
    """ValueError, saying how to install it, where an import inside fails for `what`."""
    try:
        yield
    except ImportError as error:
        raise ValueError(
            f"{what} need the package {error.name}: pip install 'jaxllm[finetune]'"
        ) from error
