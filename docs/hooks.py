"""mkdocs hooks: pages from outside docs/, and links that work both on the code host and on the site.

Sources link relative to their own file, as a code host reads them. On the site, a link to a page leads to that page, an
image is copied, and any other file of the repository becomes a link under `repo_url` or, without one, its path as text.
A target that does not exist fails the build.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent

# Pages of the site whose source is elsewhere in the repository.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/paper/README.md": "benchmarks/paper.md",
    "benchmarks/language/README.md": "benchmarks/language.md",
    "javascript/README.md": "javascript.md",
}
SOURCES = {page: source for source, page in PAGES.items()}
IMAGES = {".png", ".svg", ".jpg"}

FENCE = re.compile(r"(^ *```.*?^ *```)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\[\]]*)\]\((?P<target>[^()\s#]+)(?P<anchor>#[^()\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of other folders."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files, **_: Any) -> str:
    """Rewrites links, outside of code blocks."""
    uri = page.file.src_uri

    def rewritten(found: re.Match[str]) -> str:
        return _link(found, uri, config, files)

    parts = FENCE.split(markdown)
    return "".join(part if FENCE.match(part) else LINK.sub(rewritten, part) for part in parts)


def _link(found: re.Match[str], uri: str, config: MkDocsConfig, files: Files) -> str:
    target, text, anchor = found["target"], found["text"], found["anchor"] or ""
    if re.match(r"[a-z]+:", target):
        return found[0]
    source = SOURCES.get(uri, f"docs/{uri}")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    if path.startswith("..") or not (ROOT / path).exists():
        raise PluginError(f"{source} links to {target}, which does not exist in the repository")
    inside = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
    if inside is None and Path(path).suffix in IMAGES:
        inside = f"files/{path}"
        if files.get_file_from_path(inside) is None:
            files.append(File.generated(config, inside, abs_src_path=str(ROOT / path)))
    if inside is not None:
        return f"{found['image']}[{text}]({posixpath.relpath(inside, posixpath.dirname(uri))}{anchor})"
    if config.repo_url:
        return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path}{anchor})"
    return f"`{path}`" if text.strip("`/") == path.rstrip("/") else f"{text} (`{path}`)"
