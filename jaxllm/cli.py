"""The command line: calls a verb, and ends with its exit code.

Exit codes: 0 done, 2 wrong usage or config, 75 interrupted (run the same command again),
130 ctrl-C, 1 anything else.
"""

import logging
import sys
import traceback
from typing import Any

import typer

from jaxllm.exit_codes import EXIT_CTRL_C, EXIT_FAILED, EXIT_USAGE
from jaxllm.verbs import looking, models, pods, training

app = typer.Typer(
    name="jaxllm",
    help="Train language models on TPU pods with JAX and Flax; on a laptop it runs on CPU.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verbs in (training, models, pods, looking):
    verbs.add_to(app)


def main() -> None:
    """Run the command line; user errors end in one message, everything else in a traceback."""
    # Orbax and TFDS log what they do, and before they raise what goes wrong, with its traceback.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    # Of writes that fail together one is raised; of the others asyncio only says that nobody asked.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    sys.unraisablehook = _say_unless_late
    try:
        app()
    except SystemExit as end:
        _leave(end.code if isinstance(end.code, int) else int(end.code is not None))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        _tell_others(EXIT_CTRL_C, "interrupted by ctrl-C")
        _leave(EXIT_CTRL_C)
    except (ValueError, OSError, RuntimeError) as error:
        if not _is_ours(error):
            raise
        code = EXIT_USAGE if isinstance(error, ValueError) else EXIT_FAILED
        _tell_others(code, str(error))
        print(f"error: {error}", file=sys.stderr)
        _leave(code)
    finally:
        sys.excepthook = _leave_after_traceback  # typer has put its own there


def _say_unless_late(event: Any) -> None:
    """What Python does with an error that cannot be raised, but for those that follow another.

    Where a save fails, each write that TensorStore gives up reports to an event loop that is gone.
    """
    if str(event.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(event)


def _leave_after_traceback(kind: type, error: BaseException, trace: Any) -> None:
    """What Python does with an error that nobody expected, and then `_leave`."""
    _tell_others(1, f"{kind.__name__}: {error}")
    sys.__excepthook__(kind, error, trace)
    _leave(1)


def _is_ours(error: BaseException) -> bool:
    """Whether jaxllm itself raised the error for a user, rather than code that it called."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return frames[-1][0].f_globals.get("__name__", "").startswith("jaxllm.")


def _tell_others(code: int, reason: str) -> None:
    """Of several processes of a run, those that end with this one say why.

    Where another process failed before, this one ends here, in the same words: what went wrong on
    all is told by one, and an error that is only how a death was noticed by none.
    """
    if "jax" in sys.modules:
        from jaxllm.parallel import lifeline

        lifeline.report(code, reason)


def _leave(code: int) -> None:
    """End the process; one of several that failed goes at once.

    A normal exit waits for the other processes, and they for this one, until JAX gives up.
    """
    if "jax" in sys.modules:
        from jaxllm.parallel import distributed

        distributed.leave(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
