"""Libraries that log what they do: in a notebook every line of it would be shown in red."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

# Orbax and TFDS log through absl; what goes wrong is raised too.
_TALKATIVE = ("absl", "asyncio")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Within it their warnings are not logged; also a decorator."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
