"""What mkdocs.yml hooks into the site: pages that lie outside of docs/, and links out of it.

README.md, CHANGELOG.md, CONTRIBUTING.md and the pages under tpu/ are read where they are. In all
pages a link to another file of the repository leads to its page, or to the file in the `repository`
that mkdocs.yml names. What leads nowhere stays as it is, and ends the build.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
FENCE = re.compile(r"^ *(```|~~~)")


def outside() -> dict[str, str]:
    """File of the repository -> page of the site, for the files that are not in docs/."""
    named = {name: name.lower() for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")}
    for file in sorted((ROOT / "tpu").rglob("*.md")):
        path = file.relative_to(ROOT).as_posix()
        named[path] = path.replace("README.md", "index.md")
    return named


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the pages that are not in docs/."""
    for path, page in outside().items():
        text = (ROOT / path).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """The text of a page with its links as the site has them."""
    source = {site: path for path, site in outside().items()}
    here = source.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    lines, is_code = [], False
    for line in markdown.splitlines():
        is_code ^= bool(FENCE.match(line))
        if not is_code:
            line = LINK.sub(lambda link: _on_site(link, here, page.file.src_uri, config), line)
        lines.append(line)
    return "\n".join(lines)


def _on_site(link: re.Match[str], here: str, page: str, config: MkDocsConfig) -> str:
    """A link as it stands in the file `here`, as it stands on the page."""
    mark, text, target = link.groups()
    path, hash_sign, anchor = target.partition("#")
    if "://" in target or target.startswith("mailto:") or not path:
        return link[0]
    file = posixpath.normpath(posixpath.join(posixpath.dirname(here), path))
    there = outside().get(file) or file.removeprefix("docs/") * file.startswith("docs/")
    if there:
        relative = posixpath.relpath(there, posixpath.dirname(page) or ".")
        return f"{mark}[{text}]({relative}{hash_sign}{anchor})"
    if not (ROOT / file).exists():
        return link[0]
    kind = "tree" if (ROOT / file).is_dir() else "blob"
    return f"{mark}[{text}]({config.extra['repository']}/{kind}/main/{file})"
