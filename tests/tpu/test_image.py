"""The image of tpu/gke: its Dockerfile by a linter, and its commands as a script."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GKE = ROOT / "tpu" / "gke"
DOCKERFILE = (GKE / "Dockerfile").read_text(encoding="utf-8")
VENV = "/opt/jaxllm"


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """(keyword, rest) of a Dockerfile, without comments, lines that go on joined."""
    joined = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(None, joined.splitlines()):
        keyword, _, rest = line.partition(" ")
        yield keyword, rest.strip()


def lint(path: Path) -> subprocess.CompletedProcess[str]:
    """Nothing is ignored, and notes of style count too."""
    hadolint = Path(sys.executable).with_name("hadolint")
    command = [hadolint, "--no-color", "--failure-threshold=style", "--config=/dev/null", path]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_linter_has_nothing_to_say():
    done = lint(GKE / "Dockerfile")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("part", "worse", "rule"),
    [
        ("python:3.12.12-slim-bookworm", "python:latest", "DL3007"),
        ("pip install --no-cache-dir", "pip install", "DL3042"),
        ("-r tpu/requirements-uv.lock", "uv", "DL3013"),
        ("USER $UID", "USER root", "DL3002"),
    ],
)
def test_the_linter_sees_what_is_worse(tmp_path, part, worse, rule):
    assert part in DOCKERFILE
    (tmp_path / "Dockerfile").write_text(DOCKERFILE.replace(part, worse))
    done = lint(tmp_path / "Dockerfile")
    assert done.returncode != 0
    assert rule in done.stdout


def test_the_image_runs_jaxllm_as_a_user_and_passes_signals_to_it():
    found = list(instructions(DOCKERFILE))
    assert ("ENTRYPOINT", '["jaxllm"]') in found  # without a shell, which would keep signals
    assert ("STOPSIGNAL", "SIGTERM") in found
    assert ("ARG", "UID=10001") in found
    assert [rest for keyword, rest in found if keyword == "USER"] == ["$UID"]
    assert any(keyword == "ENV" and "PYTHONUNBUFFERED=1" in rest for keyword, rest in found)


def test_the_source_knows_its_commit_and_no_other_is_installed(tmp_path):
    repository, source = tmp_path / "repository", tmp_path / "source"
    shutil.copytree(GKE, repository / "tpu" / "gke")
    commit = commit_all(repository)
    extract(repository, commit, source)
    assert (source / "tpu" / "gke" / "commit").read_text().strip() == commit
    for folder, asked in ((source, "0" * 40), (repository, commit)):
        done = subprocess.run(
            ["bash", "tpu/gke/install.sh", "jaxllm", tmp_path / "venv", asked],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert "git archive" in done.stderr


def test_the_installer_is_a_sound_script():
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, GKE / "install.sh"], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode()


@pytest.mark.slow
def test_the_commands_of_the_image_install_jaxllm_at_a_commit(tmp_path):
    """Every COPY and RUN, but for the one that makes a user, with another folder for /opt."""
    repository, source = tmp_path / "repository", tmp_path / "source"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (repository / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, repository / name)
    commit = commit_all(repository)
    extract(repository, commit, source)
    venv, workdir = build(source, tmp_path / "image", commit)
    assert not (workdir / ".git").exists()
    jaxllm = subprocess.run(
        [venv / "bin" / "jaxllm", "--help"], capture_output=True, text=True, check=True
    )
    assert "train" in jaxllm.stdout
    code = (
        "import importlib.metadata as m, jaxllm.config_files as c; "
        "print(c.__file__, m.version('libtpu'), 'demo' in c.shipped_configs(), m.version('gcsfs'))"
    )
    found = subprocess.run(
        [venv / "bin" / "python", "-c", code], capture_output=True, text=True, check=True, cwd="/"
    ).stdout.split()
    assert Path(found[0]).is_relative_to(venv)  # a copy, not a link to the source
    assert f"libtpu=={found[1]} " in (ROOT / "requirements-aot.lock").read_text()
    assert found[2] == "True"
    assert f"gcsfs=={found[3]} " in (ROOT / "requirements.lock").read_text()


def build(source: Path, image: Path, commit: str) -> tuple[Path, Path]:
    """What `docker build` does; returns the folders of the packages and of the source in it."""
    python, venv, workdir = image / "python", image / "venv", image / "workdir"
    subprocess.run([sys.executable, "-m", "venv", python], check=True)
    workdir.mkdir()
    path = f"{python}/bin:{sys.base_prefix}/bin:/usr/bin:/bin"  # pip of the first, uv's Python 3.12
    environment = {**os.environ, "PATH": path, "COMMIT": commit}
    environment.pop("VIRTUAL_ENV", None)
    for keyword, rest in instructions(DOCKERFILE):
        if keyword == "COPY":
            *names, target = rest.split()
            for name in names:
                place = workdir / target
                if (source / name).is_dir():
                    shutil.copytree(source / name, place, dirs_exist_ok=True)
                else:
                    place.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(source / name, place)
        elif keyword == "RUN" and "useradd" not in rest:
            command = rest.replace(VENV, str(venv))
            subprocess.run(["bash", "-c", command], cwd=workdir, env=environment, check=True)
    return venv, workdir


def commit_all(repository: Path) -> str:
    """Make a repository of a folder; the commit that has all of it."""
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *arguments], cwd=repository, check=True)
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=repository, capture_output=True, text=True, check=True
    ).stdout.strip()


def extract(repository: Path, commit: str, target: Path) -> None:
    target.mkdir()
    archive = subprocess.run(
        ["git", "archive", commit], cwd=repository, capture_output=True, check=True
    ).stdout
    subprocess.run(["tar", "-x"], input=archive, cwd=target, check=True)
