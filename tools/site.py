"""Builds the documentation as a site: the README, the pages of `docs/`, every command's help, and a reference from docstrings.

`make docs`, or `python -m tools.site FOLDER`. Pages keep their links: what they link to outside of `docs/` is copied beside them.
Fails if a link leads nowhere. Nothing is fetched.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import ppgstream

ROOT = Path(__file__).parents[1]
MARK = ".ppgstream-site"  # in a folder that this program made
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)")  # of Markdown, to a file
COMMANDS = ("run", "demo", "replay", "denoise", "tap", "record", "monitor", "reload", "keygen", "train", "evaluate", "bench")
NESTED = (
    *(("checkpoint", name) for name in ("show", "probe", "import", "export", "calibrate")),
    ("shadow", "report"),
    ("fleet", "status"),
)
ERRORS = (
    "PpgStreamError",
    "ArgumentError",
    "UsageError",
    "ConfigError",
    "CheckpointError",
    "DataError",
    "SourceError",
    "OutputError",
)

NAV: dict[str, str | list[str]] = {
    "Five minutes": "index.md",
    "Your sensor": "sensors.md",
    "Your files": ["formats.md", "archive.md"],
    "From Python": "python.md",
    "Your own network": "own-network.md",
    "Retrain": ["training.md", "course.md"],
    "The wire": "wire.md",
    "Operate": ["operations.md", "reload.md", "fleet.md", "monitor.md", "status.md", "reliability.md", "SECURITY.md"],
    "How good it is": ["validation.md", "bench.md"],
    "Reference": ["commands.md", "reference.md"],
    "Why": ["decisions.md", "architecture.md", "dependencies.md", "runs.md", "CONTRIBUTING.md", "CHANGELOG.md"],
}


def write_pages(folder: Path) -> None:
    """The pages of the site, and what they link to, into `folder`."""
    for path in sorted((ROOT / "docs").iterdir()):
        if path.suffix == ".md":
            _write_page(path, folder / path.name, folder)
        else:
            shutil.copy(path, folder / path.name)
    _write_page(ROOT / "README.md", folder / "index.md", folder)
    for name in ("SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        _write_page(ROOT / name, folder / name, folder)
    (folder / "wide.css").write_text(".md-grid { max-width: 84rem; }\n")  # for lines of 100 characters
    (folder / "commands.md").write_text(_commands())
    (folder / "reference.md").write_text(_reference())


def _write_page(source: Path, target: Path, folder: Path) -> None:
    text = source.read_text()
    if source.parent == ROOT / "docs":
        text = f"[//]: # (made of docs/{source.name})\n{text}"

    def moved(found: re.Match[str]) -> str:
        path = (source.parent / unquote(found[1])).resolve()
        if path.parent == ROOT / "docs" or (path.parent == ROOT and path.suffix == ".md"):
            return "index.md" if path.name == "README.md" else path.name
        inside = path.relative_to(ROOT)
        if path.is_dir():
            _copy_listing(path, folder / inside)
            return f"{inside}/index.txt"
        # What has no ending would be taken for a page's folder.
        inside = inside if path.suffix and path.suffix != ".md" else inside.with_name(f"{inside.name}.txt")
        (folder / inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / inside)
        return str(inside)

    target.write_text(LINK.sub(moved, text))


def _copy_listing(source: Path, target: Path) -> None:
    """A folder's files, and a list of them."""
    target.mkdir(parents=True, exist_ok=True)
    names = sorted(path.name for path in source.iterdir() if path.is_file())
    for name in names:
        shutil.copy(source / name, target / name)
    (target / "index.txt").write_text("\n".join(names) + "\n")


def _commands() -> str:
    lines = ["# Commands", "", "What `ppgstream COMMAND --help` prints.", ""]
    for words in (*((name,) for name in COMMANDS), *NESTED):
        asked = [str(Path(sys.executable).with_name("ppgstream")), *words, "--help"]
        plain = os.environ | {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}
        said = subprocess.run(asked, capture_output=True, text=True, check=True, cwd=ROOT, env=plain)  # noqa: S603
        text = "\n".join(line.rstrip() for line in said.stdout.strip().splitlines())
        lines += [f"## ppgstream {' '.join(words)}", "", "```text", text, "```", ""]
    return "\n".join(lines)


def _reference() -> str:
    lines = ["# Reference", "", "The names of the package, from their docstrings. How to use them: [From Python](python.md).", ""]
    for name in ("denoise", "load", "Denoised", "LiveDenoiser", "Block", "connect", "Connection", "Sender"):
        lines += [f"::: {getattr(ppgstream, name).__module__}.{name}", "    options:", "      show_root_full_path: false", ""]
    lines += [
        "## Messages",
        "",
        "::: ppgstream.wire.message",
        "    options:",
        "      members: [Kind, Flag, Beats, Chunk, encode, decode]",
        "",
    ]
    lines += ["## Errors", ""]
    for name in ERRORS:
        lines += [f"::: ppgstream.errors.{name}", "    options:", "      show_root_full_path: false", ""]
    return "\n".join(lines)


def _config(pages: str, site: str) -> str:
    """The generator's settings: no fonts, icons or scripts from elsewhere."""
    nav = [f'{{ "{title}" = {json.dumps(part)} }}' for title, part in NAV.items()]
    return f"""
[project]
site_name = "ppgstream"
site_description = "A live denoiser for photoplethysmograms"
docs_dir = "{pages}"
site_dir = "{site}"
use_directory_urls = false
extra_css = ["wide.css"]
nav = [{", ".join(nav)}]
[project.theme]
font = false
features = ["content.code.copy", "navigation.sections", "navigation.top", "search.highlight", "toc.follow"]
[project.markdown_extensions]
attr_list = {{}}
tables = {{}}
toc.permalink = true
pymdownx.highlight = {{}}
pymdownx.superfences = {{}}
[project.plugins.mkdocstrings.handlers.python]
paths = ["{ROOT}"]
[project.plugins.mkdocstrings.handlers.python.options]
show_root_heading = true
show_source = false
show_signature_annotations = true
show_symbol_type_heading = true
separate_signature = true
members_order = "source"
"""


class Page(NamedTuple):
    """What a page of HTML leads to, the places in it that can be led to, and what it fetches from elsewhere."""

    links: list[str]
    places: set[str]
    fetched: list[str]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name in ("id", "name"):
                self.places.add(value)
            if value and name in ("href", "src"):
                self.links.append(value)
                if urlsplit(value).netloc and (name == "src" or (tag == "link" and ("rel", "stylesheet") in attrs)):
                    self.fetched.append(value)


def page_of(html: str) -> Page:
    reader = _Reader()
    reader.feed(html)
    return Page(reader.links, reader.places, reader.fetched)


def broken(site: Path) -> list[str]:
    """Links of a site's pages that lead nowhere in it, and what a page would fetch from elsewhere. zensical's --strict looks at
    pages and anchors alone: not at pictures, nor at files that are no pages."""
    pages = {path: page_of(path.read_text()) for path in site.rglob("*.html")}
    found = []
    for path, page in pages.items():
        found += [f"{path.relative_to(site)}: fetches {link}" for link in page.fetched]
        for link in page.links:
            to = urlsplit(link)
            if to.scheme or to.netloc or path.name == "404.html":
                continue
            target = (path.parent / unquote(to.path)).resolve() if to.path else path
            target = target / "index.html" if target.is_dir() else target
            place = unquote(to.fragment)
            if not target.is_file() or (place and target in pages and place not in pages[target].places):
                found.append(f"{path.relative_to(site)}: {link}")
    return sorted(set(found))


def build(site: Path) -> None:
    """Build the site into `site`, which is made anew. Exits with what is wrong."""
    site = site.resolve()
    if site.exists() and not (site / MARK).is_file() and (not site.is_dir() or any(site.iterdir())):
        sys.exit(f"{site}: is there, and was not made by this program: give a new folder")
    with tempfile.TemporaryDirectory(prefix="ppgstream-site-") as folder:
        pages = Path(folder) / "pages"
        pages.mkdir()
        write_pages(pages)
        (Path(folder) / "zensical.toml").write_text(_config("pages", "site"))
        done = subprocess.run(
            [sys.executable, "-m", "zensical", "build", "--strict", "-f", "zensical.toml"],
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"the site cannot be built:\n{done.stdout}{done.stderr}")
        shutil.rmtree(site, ignore_errors=True)
        shutil.copytree(Path(folder) / "site", site)
        (site / MARK).touch()
    if lost := broken(site):
        sys.exit("links that lead nowhere:\n" + "\n".join(lost))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("python -m tools.site FOLDER")
    build(Path(sys.argv[1]))
    print(f"{sys.argv[1]}/index.html")
