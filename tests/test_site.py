"""The documentation site: it builds without a warning or a network, is complete, and loads nothing from elsewhere."""

import re
import runpy
import socket
from html.parser import HTMLParser
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import adaptive_depth as ad

ROOT = Path(__file__).parent.parent
HOOKS = runpy.run_path(str(ROOT / "docs" / "hooks.py"))
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "object": "data"}
FOLLOWED = {"canonical", "next", "prev", "edit"}  # kinds of <link> that load nothing


class Reader(HTMLParser):
    """What a page loads, and the places in it that can be linked to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids.add(found.get("id", ""))
        self.loads += _addresses(found.get("style", ""))
        if tag == "link" and found.get("rel") not in FOLLOWED:
            self.loads.append(found.get("href", ""))
        self.loads += [found[name] for name in ("srcset", LOADED.get(tag, "src")) if name in found]

    def handle_data(self, data: str) -> None:
        if self.lasttag == "style":
            self.loads += _addresses(data)


def _addresses(style: str) -> list[str]:
    """What a style sheet loads."""
    return re.findall(r"""(?:url\(\s*|@import\s+)["']?([^"')\s;]+)""", style)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning, a connection to anywhere, or a broken link fails the build."""

    def refuse(*_: object) -> None:
        raise AssertionError("the build of the site connects to something")

    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder))
        config.plugins.run_event("startup", command="build", dirty=False)
        try:
            build(config)
        finally:
            config.plugins.run_event("shutdown")
    return folder


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages, styles = sorted(site.rglob("*.html")), sorted(site.rglob("*.css"))
    assert len(pages) > 30
    assert styles
    loaded = {(page.name, address) for page in pages for address in Reader(page.read_text()).loads}
    loaded |= {(style.name, address) for style in styles for address in _addresses(style.read_text())}
    assert [each for each in sorted(loaded) if re.match(r"(\w+:)?//", each[1])] == []
    used = [(page, address) for page in pages if page.name != "404.html" for address in Reader(page.read_text()).loads]
    local = [page.parent / address.partition("#")[0] for page, address in used if not address.startswith("data:")]
    assert len(local) > 100
    assert [path for path in local if not path.exists()] == []


def test_what_a_page_loads_is_seen() -> None:
    page = '<img src="https://a/b.png"><link rel="stylesheet" href="//c/d.css"><style>@import "http://e/f";</style>'
    assert Reader(page).loads == ["https://a/b.png", "//c/d.css", "http://e/f"]
    assert _addresses("p {background: url('https://g/h.woff')}") == ["https://g/h.woff"]


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(site: Path) -> None:
    ids = {each for page in (site / "reference").glob("*.html") for each in Reader(page.read_text()).ids}
    assert [name for name in ad.__all__ if f"adaptive_depth.{name}" not in ids] == []
    assert [name for name in ad.tasks.__all__ if f"adaptive_depth.tasks.{name}" not in ids] == []
    assert [name for name in ad.language.__all__ if f"adaptive_depth.language.{name}" not in ids] == []


def test_every_page_is_in_the_navigation() -> None:
    def listed(entry: object) -> set[str]:
        if isinstance(entry, str):
            return {entry}
        inside = entry.values() if isinstance(entry, dict) else entry
        return set().union(*map(listed, inside))  # type: ignore[call-overload]

    docs = ROOT / "docs"
    written = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    navigation = listed(load_config(str(ROOT / "mkdocs.yml")).nav)
    assert navigation == written | set(HOOKS["PAGES"].values())


# -- links out of docs/ -------------------------------------------------------------------------------------------


def rewritten(markdown: str, page: str = "schedules.md", repo_url: str | None = None) -> tuple[str, set[str]]:
    """What the hook makes of a text, and the files that it adds."""
    config = load_config(str(ROOT / "mkdocs.yml"), repo_url=repo_url)
    config.plugins._current_plugin = "hooks"  # mkdocs names whose event runs: files remember who made them
    files = Files([])
    file = File.generated(config, page, content=markdown)
    found = HOOKS["on_page_markdown"](markdown, page=Page(None, file, config), config=config, files=files)
    return found, {file.src_uri for file in files}


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("schedules.md", "[tasks](tasks.md#limits)", "[tasks](tasks.md#limits)"),
        ("index.md", "[tasks](docs/tasks.md)", "[tasks](tasks.md)"),
        ("reference/index.md", "[start](../../README.md)", "[start](../index.md)"),
        ("evidence.md", "[all](../benchmarks/paper/README.md#x)", "[all](benchmarks/paper.md#x)"),
        ("schedules.md", "[examples/](../examples)", "`examples`"),
        ("schedules.md", "[a loop](../examples/train_with_timm.py)", "a loop (`examples/train_with_timm.py`)"),
        ("schedules.md", "[out](https://a.org/b.md)", "[out](https://a.org/b.md)"),
        ("schedules.md", "```py\n[a](nothing.md)\n```", "```py\n[a](nothing.md)\n```"),
    ],
)
def test_a_link_works_on_the_site(page: str, link: str, expected: str) -> None:
    assert rewritten(link, page) == (expected, set())


def test_an_image_beside_the_pages_is_copied() -> None:
    picture = "benchmarks/results/demo/tradeoffs.png"
    assert rewritten(f"![a]({picture})", "index.md") == (f"![a](files/{picture})", {f"files/{picture}"})


def test_other_files_are_shown_on_the_code_host_where_there_is_one() -> None:
    link = "[a loop](../examples/train_with_timm.py)"
    host = "https://code.example/us/depth"
    assert rewritten(link, repo_url=host)[0] == f"[a loop]({host}/blob/main/examples/train_with_timm.py)"


@pytest.mark.parametrize("target", ["../examples/nothing.py", "nothing.md", "../../outside.md"])
def test_a_link_to_nothing_fails_the_build(target: str) -> None:
    with pytest.raises(PluginError, match=rf"docs/schedules.md links to {re.escape(target)}, which does not exist"):
        rewritten(f"[a]({target})")
