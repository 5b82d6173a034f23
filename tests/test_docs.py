"""What the documents link to is there, and the site has all of them."""

import re
from pathlib import Path

import pytest
import yaml
from documents import ROOT, anchors, documents, prose

# [text](target), also with code or an image in the text.
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\](?:\([^)]*\))?)*\]\(([^()\s]+)\)")
IMAGE = re.compile(r"!\[[^\]]*\]\(([^()\s]+)\)")

each = pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))


def targets(path: Path) -> list[tuple[int, str]]:
    """(line, target) of each link; code spans are no links."""
    found = []
    for number, line in prose(path):
        line = re.sub(r"`[^`]*`", "code", line)
        found += [(number, target) for pattern in (LINK, IMAGE) for target in pattern.findall(line)]
    return found


@each
def test_every_link_within_the_repository_leads_somewhere(path):
    broken = []
    for number, target in targets(path):
        name, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        file = (path.parent / name).resolve() if name else path
        if not file.is_relative_to(ROOT) or not file.exists():
            broken.append(f"line {number}: there is no {target}")
        elif anchor and anchor not in anchors(file):
            broken.append(f"line {number}: {target}: no such heading in {file.name}")
    assert not broken, "\n".join(broken)


@each
def test_headings_can_be_told_apart(path):
    """Of two alike the second gets another name on GitHub than on the site."""
    names = anchors(path)
    if path.name != "CHANGELOG.md":  # whose versions each have the same parts
        assert len(names) == len(set(names)), sorted(names)


@each
def test_links_to_the_web_are_encrypted(path):
    assert not [target for _, target in targets(path) if target.startswith("http://")]


def test_every_page_has_a_place_in_the_navigation():
    """And every place a page, as far as that is seen without building the site."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    nav = yaml.safe_load("nav:" + text.partition("\nnav:")[2])["nav"]
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    pages += [name.lower() for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
    pages += [
        path.relative_to(ROOT).as_posix().replace("README.md", "index.md")
        for path in (ROOT / "tpu").rglob("*.md")
    ]
    assert sorted(places(nav)) == sorted(pages)


def places(entry) -> list[str]:
    """The pages that a part of the navigation names."""
    if isinstance(entry, str):
        return [entry]
    entries = entry.values() if isinstance(entry, dict) else entry
    return [place for inner in entries for place in places(inner)]


# Files that a reader would make by following a page.
MADE_BY_READERS = {"configs/compare_optim_signum.yaml", "tpu/settings.env"}
SPAN = re.compile(r"`((?:[a-z_.]+/)+[\w.*-]*)`")
FOLDERS = ("jaxllm", "tests", "scripts", "configs", "docs", "tpu", "requirements")


@each
def test_files_that_are_named_are_there(path):
    """As from the root of the repository, or within jaxllm/."""
    missing = []
    for number, line in prose(path):
        for name in SPAN.findall(line):
            is_ours = name.startswith(FOLDERS) or name.endswith(".py")
            is_placeholder = re.search("[A-Z]{2}", name) and not name.endswith("README.md")
            if not is_ours or is_placeholder or name in MADE_BY_READERS:
                continue
            if not any(any(folder.glob(name)) for folder in (ROOT, ROOT / "jaxllm")):
                missing.append(f"line {number}: there is no {name}")
    assert not missing, "\n".join(missing)
