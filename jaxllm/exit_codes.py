"""Exit codes of the commands, on which launchers and schedulers act."""

EXIT_FAILED = 1
"""Anything without a code of its own; another try may help."""
EXIT_USAGE = 2
"""Wrong usage or config: another try would say the same."""
EXIT_INTERRUPTED = 75
"""Run the same command again."""
EXIT_CTRL_C = 130
