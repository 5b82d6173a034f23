"""Git repositories that hold what the working tree has now, for scripts that ship a commit."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from .cloud import ROOT

_SCRIPTS = (
    "tpu",
    "scripts",
    "configs",
    ".python-version",
    "pyproject.toml",
    "requirements.lock",
    "requirements-aot.lock",
)
_PACKAGE = ("jaxllm", "README.md")
_NOT_COPIED = shutil.ignore_patterns("__pycache__", "settings.env", "colab")


def with_scripts(folder: Path) -> Path:
    """A repository of the scripts and the lock files alone."""
    return _commit(folder, _SCRIPTS)


def with_package(folder: Path, *, configs: Mapping[str, str]) -> Path:
    """The same with jaxllm, and with more configs: their YAML by name."""
    return _commit(folder, (*_SCRIPTS, *_PACKAGE), configs=configs)


def _commit(
    folder: Path, names: Sequence[str], *, configs: Mapping[str, str] | None = None
) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=_NOT_COPIED)
        else:
            shutil.copy(ROOT / name, folder / name)
    for name, text in (configs or {}).items():
        (folder / "configs" / f"{name}.yaml").write_text(text, encoding="utf-8")
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=all")
    return folder


def git(folder: Path, *arguments: str) -> str:
    """A git command there, by nobody in particular; its stdout."""
    who = ("-c", "user.name=tester", "-c", "user.email=tester@example.org")
    return subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()
