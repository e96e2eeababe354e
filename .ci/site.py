"""What the site needs beside mkdocs: pages from outside docs/, published leaderboards, notebooks, links, metrics."""

from __future__ import annotations

import base64
import html
import json
import posixpath
import re
import shutil
from pathlib import Path
from typing import Any

import griffe
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
BOARDS = ROOT / "build" / "boards"
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
HOMES = {page: name for name, page in PAGES.items()}
DOCTEST = re.compile(r"^>>> (?:.+\n?)+", re.MULTILINE)
FOREIGN = re.compile(r'<(?:script|img|iframe|link)\b[^>]*(?:src|href)="(?:https?:)?//[^"]*"')
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie outside docs/, and a page for each notebook in the notebook's place."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    for path in boards():
        files.append(File.generated(config, f"boards/{path.relative_to(BOARDS).as_posix()}", abs_src_path=str(path)))
    for file in [each for each in files if each.src_uri.endswith(".ipynb")]:
        files.remove(file)
        text = notebook_page(json.loads(Path(str(file.abs_src_path)).read_text(encoding="utf-8")))
        files.append(File.generated(config, file.src_uri.replace(".ipynb", ".md"), content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Point links at pages of the site; a link to a file that is no page becomes its text."""
    here = page.file.src_uri
    folder = (ROOT / HOMES[here]).parent if here in HOMES else (ROOT / "docs" / here).parent

    def moved(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        if not target.exists():
            return link[0]  # code, or broken: mkdocs tells which
        name = target.relative_to(ROOT).as_posix()
        if name not in PAGES and not (name.startswith("docs/") and target.is_file()):
            return link[1]
        uri = PAGES.get(name) or name.removeprefix("docs/").replace(".ipynb", ".md")
        return f"[{link[1]}]({posixpath.relpath(uri, posixpath.dirname(here) or '.')}{link[3] or ''})"

    return LINK.sub(moved, markdown).replace("<!-- metrics -->", metrics())


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Refuse a page that would ask another host for something when it is opened."""
    if found := FOREIGN.search(output):
        raise PluginError(f"{page.file.src_uri}: {found[0]} is fetched from elsewhere")
    return output


def boards() -> list[Path]:
    """Write the front page of the published leaderboards, and return the files of its folder."""
    from conrad_bench.leaderboards.site.write import write_site

    shutil.rmtree(BOARDS, ignore_errors=True)
    write_site(ROOT / "leaderboards" / "published", BOARDS, "Published leaderboards")
    return [path for path in sorted(BOARDS.rglob("*")) if path.is_file()]


def notebook_page(notebook: dict[str, Any]) -> str:
    """Return a notebook as Markdown: its texts, code, and what the code showed."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        parts += [shown(output) for output in cell["outputs"]]
    return "\n\n".join(parts)


def shown(output: dict[str, Any]) -> str:
    """Return an output as HTML: the first of its forms that a page can have."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    forms = {kind: "".join(value) for kind, value in data.items()}
    if "image/svg+xml" in forms:
        code = base64.b64encode(forms["image/svg+xml"].encode()).decode()
        return f'<img alt="The figure that this code makes" src="data:image/svg+xml;base64,{code}">'
    if "text/html" in forms:
        table = re.sub(r"<style.*?</style>", "", forms["text/html"], flags=re.DOTALL)
        lines = table.replace(' border="1" class="dataframe"', "").splitlines()
        return "<div>" + "".join(line.strip() for line in lines) + "</div>"
    return f"<pre><code>{html.escape(forms['text/plain'])}</code></pre>"


def metrics() -> str:
    """Return the metrics that are functions: they are made on first use, so reading the sources does not show them."""
    from conrad_bench.leaderboards import functions

    found = []
    for name in functions.METRIC_NAMES:
        about = [line.strip() for line in str(getattr(functions, name).__doc__).strip().splitlines()]
        found.append(f"### `{name}`\n\n" + "\n".join(about).replace("Arguments as in `measure`.", ""))
    return "\n\n".join(found)


class Doctests(griffe.Extension):
    """Examples in docstrings are code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Fence them."""
        if obj.docstring is not None:
            obj.docstring.value = DOCTEST.sub(
                lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", obj.docstring.value
            )
