"""The front page over bundles: every number two clicks from its records, nothing of a bundle runs or hides."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest
from test_cli import conrad_bench, refused
from test_run import Toy

from conrad_bench.errors import DataError
from conrad_bench.leaderboards.bundles.publish import publish
from conrad_bench.leaderboards.site.write import write_site
from conrad_bench.records import read_records

PUBLISHED = Path(__file__).parents[1] / "leaderboards" / "published"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bundles of toy runs, one under a name that is HTML."""
    parent = tmp_path_factory.mktemp("bundles")
    for number, name in enumerate(("first", "<b>second & more")):
        toy = Toy(tmp_path_factory.mktemp(f"toy{number}"))
        toy.run("stated,mean")
        publish([toy.out], parent / name)
    return parent


class Links(HTMLParser):
    """The addresses of a page's links, and of those in cells of numbers."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.all: list[str] = []
        self.scripts = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take up a link."""
        self.scripts += tag == "script"
        if tag == "a" and (address := dict(attrs).get("href")):
            self.all.append(address)


def test_each_number_is_two_clicks_from_its_records(bundles: Path, tmp_path: Path) -> None:
    assert write_site(bundles, tmp_path / "site", "Ours") == []
    front = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    rows = {address for address in Links(front).all if "/rows/" in address}
    assert len(rows) == 4  # two methods of two bundles
    for address in rows:
        page = tmp_path / "site" / unquote(address)
        links = Links(page.read_text(encoding="utf-8")).all
        (records,) = [link for link in links if link.endswith(".csv")]
        shown = pd.read_csv(page.parent / unquote(records))
        name = Path(unquote(records)).stem
        original = read_records(bundles / unquote(address).split("/")[0] / "records" / f"{name}.parquet")
        pd.testing.assert_series_equal(shown["confidence"], original["confidence"], check_dtype=False)
        pd.testing.assert_series_equal(shown["correctness"], original["correctness"], check_dtype=False)


def test_every_link_of_every_page_leads_somewhere(bundles: Path, tmp_path: Path) -> None:
    write_site(bundles, tmp_path / "site", "Ours")
    pages = [*(tmp_path / "site").rglob("*.html")]
    assert len(pages) == 1 + 2 + 4
    for page in pages:
        text = page.read_text(encoding="utf-8")
        found = Links(text)
        assert found.scripts == 1
        assert "default-src 'none'" in text
        for address in found.all:
            path, _, anchor = address.partition("#")
            assert "://" not in address
            assert not path or (page.parent / unquote(path)).is_file(), (page, address)
            assert not anchor or f'id="{anchor}"' in text


def test_names_are_text(bundles: Path, tmp_path: Path) -> None:
    write_site(bundles, tmp_path / "site", "<script>alert(1)</script>")
    front = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "<b>" not in front
    assert "<script>alert" not in front
    assert "&lt;b&gt;second &amp; more" in front


def test_what_differs_from_its_records_is_left_out(bundles: Path, tmp_path: Path) -> None:
    parent = tmp_path / "bundles"
    shutil.copytree(bundles, parent)
    board = parent / "first" / "leaderboard.json"
    board.write_text(re.sub(r'("brier": \{[^}]*"value": )[0-9.]+', r"\g<1>0.001", board.read_text()))
    done = conrad_bench("site", str(parent), "--out", str(tmp_path / "site"), cwd=tmp_path)
    assert done.returncode == 1
    assert "left out" in done.stderr
    assert sorted(path.name for path in (tmp_path / "site").iterdir()) == ["<b>second & more", "index.html"]
    shutil.rmtree(parent / "<b>second & more")
    with pytest.raises(DataError, match="agrees"):
        write_site(parent, tmp_path / "none", "Ours", lambda _: None)


def test_a_folder_without_bundles_is_refused(tmp_path: Path) -> None:
    assert "holds no bundle" in refused(conrad_bench("site", ".", "--out", "site", cwd=tmp_path))


def test_the_published_ones_make_a_site(tmp_path: Path) -> None:
    assert write_site(PUBLISHED, tmp_path / "site", "Published") == []
    front = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    boards = [json.loads(path.read_text(encoding="utf-8")) for path in PUBLISHED.glob("*/leaderboard.json")]
    assert front.count("<tr data-method=") == sum(len(board["rows"]) for board in boards) > 60
