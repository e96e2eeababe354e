"""The review pages: what they show and hide, what they keep, and what they refuse."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient
from test_cli import conrad_bench
from test_view import EVIL, made_up, plain

from conrad_bench import open_run, registry
from conrad_bench.errors import ConfigError
from conrad_bench.progress import Reporter
from conrad_bench.reviews.store import Store
from conrad_bench.reviews.workload import workload
from conrad_bench.serving import security
from conrad_bench.serving.review import Setting
from conrad_bench.serving.reviewing import elsewhere, make_review
from conrad_bench.serving.security import HEADERS, MOST_BODY, SCRIPTS, WRITES_AT_ONCE, Guard

SENTENCE = "mimic_sentence"
BUNDLE = Path(__file__).parents[1] / "leaderboards" / "published" / "phantom"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of sentences and reports; a method states confidences, another's response is shared by both tasks."""
    folder = tmp_path_factory.mktemp("review") / "run-of-verbalized"
    done = conrad_bench(
        "run", "--methods", "verbalized,sequence_probability", "--tasks", f"{SENTENCE},mimic_report",
        "-o", "phantom.studies=60", "-o", "bootstrap.replicates=50", "--out", str(folder),
        cwd=folder.parent, OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def run(made: Path) -> Iterator[Path]:
    """The run, without a review."""
    yield made
    for path in made.glob("review*"):
        path.unlink()


class Browser:
    """A browser that has opened the printed address: forms are filled in as they stand in the pages."""

    def __init__(self, app: Any, address: str) -> None:
        self.client = TestClient(app, base_url="http://127.0.0.1:8000")
        self.page = self.client.get(address).text
        self.headers = {"origin": "http://127.0.0.1:8000"}

    def get(self, path: str) -> str:
        answer = self.client.get(path)
        assert answer.status_code == 200, answer.text
        self.page = answer.text
        return self.page

    def post(self, path: str, **fields: Any) -> Any:
        """Send a form with the token of the page that was read last; answered by data, as for the page's script."""
        token = re.findall(r'name="csrf" value="([^"]+)"', self.page)[0]
        data = {"csrf": token, **fields}
        return self.client.post(path, data=data, headers={**self.headers, "accept": "application/json"})


class Reviewing:
    """A review and its browsers."""

    def __init__(self, run: Path, *raters: str, blind: bool = False, order: Any = "uncertain", **chosen: Any) -> None:
        self.raters = raters or ("ann",)
        setting = Setting(self.raters, order, blind, chosen.pop("target", None))
        what = {"method": None, "task": None, **chosen}
        self.viewer, self.store, app = make_review(run, setting, local=True, reporter=Reporter(quiet=True), **what)
        self.pages = next(route.endpoint.__self__ for route in app.routes if route.path == "/review/list")
        self.guard = Guard(app, 8000, lambda _: None, scripts=True)

    @property
    def reports(self) -> Any:
        return self.pages._reports

    @property
    def sources(self) -> Any:
        return self.pages._sources

    def refill(self) -> None:
        """Let the sessions write as much as they like."""
        for session in self.guard._sessions.values():
            session._allowed = WRITES_AT_ONCE

    def browser(self, rater: int | None = None) -> Browser:  # None: the only one, or nobody yet
        browser = Browser(self.guard, self.guard.address())
        if rater is not None:
            assert browser.post("/review/rater", rater=rater).status_code == 200
            browser.get("/review")
        return browser

    def order(self, rater: int) -> list[int]:
        """The reports in a rater's order, as the list has them."""
        browser, found, page = self.browser(rater if len(self.raters) > 1 else None), [], 1
        while True:
            text = browser.get(f"/review/list?page={page}")
            found += [int(number) for number in re.findall(r'<th scope="row"><a href="/review/(\d+)"', text)]
            if 'rel="next"' not in text:
                return found
            page += 1

    def close(self) -> None:
        self.viewer.films.close()
        self.store.close()


@pytest.fixture
def reviewing(run: Path) -> Iterator[Any]:
    made: list[Reviewing] = []

    def begin(*raters: str, folder: Path = run, **options: Any) -> Reviewing:
        made.append(Reviewing(folder, *raters, **options))
        return made[-1]

    yield begin
    for each in made:
        each.close()


def number_of(page: str) -> int:
    return int(re.findall(r'data-number="(\d+)"', page)[0])


def sentences_of(page: str) -> list[tuple[int, str, str]]:
    """Number, text and class of each sentence of the report, in its order."""
    found = re.findall(r'<mark class="(\w+)" id="t(\d+)">([^<]*)</mark>', page)
    return [(int(number), html.unescape(text), level) for level, number, text in found]


# What is shown


def test_a_report_is_shown_with_all_that_is_known(reviewing: Any, run: Path) -> None:
    browser = reviewing(task=SENTENCE, method="verbalized").browser()
    page = browser.page
    records = open_run(run).responses("verbalized", SENTENCE)
    id = html.unescape(re.findall(r"<h1>(.*)</h1>", page)[0])
    rows = records[records["example"] == id]
    assert [text for _, text, _ in sentences_of(page)] == [
        part.rpartition(" Confidence")[0] or part for part in re.split(r"(?<=Confidence: \d)\n", rows["text"].iloc[0])
    ] or len(sentences_of(page)) == len(rows)
    assert [level for _, _, level in sentences_of(page)] == [f"c{int(c * 10 + 0.5)}" for c in rows["confidence"]]
    means = records.groupby("example")["confidence"].mean()
    assert means[id] == means.min()  # the least confident report, and in it the least confident sentence, come first
    listed = [float(c) for c in re.findall(r'data-confidence="([\d.]+)"', page)]
    assert listed == sorted(rows["confidence"])
    for said in ("By verbalized", "The reference report", "How much to read", "not a medical device", "Indication"):
        assert said in page
    assert browser.client.get(re.findall(r'<img src="([^"]+)"', page)[0]).headers["content-type"] == "image/png"


def test_each_response_is_reviewed_once(reviewing: Any, run: Path) -> None:
    """Also one that two tasks and several methods share; as that of sentences, which say more."""
    records = open_run(run).responses()
    browser = reviewing().browser()
    assert f"of {records['response'].nunique()} reports" in plain(browser.get("/review/list"))
    assert len(reviewing(task=SENTENCE).order(0)) == records.query("task == @SENTENCE")["response"].nunique()


def test_a_report_with_one_confidence_has_sentences_all_the_same(reviewing: Any) -> None:
    page = reviewing(task="mimic_report", method="verbalized").browser().page
    found = sentences_of(page)
    assert len(found) > 3
    assert len({level for _, _, level in found}) == 1
    assert "confidence of the whole report" in page
    assert 'data-confidence="' not in page
    assert "Confidence:" not in " ".join(text for _, text, _ in found)


def test_blind_pages_do_not_hold_what_they_hide(reviewing: Any, run: Path) -> None:
    records = open_run(run).responses()
    review = reviewing(blind=True, order="random")
    browser = review.browser()
    references = {e.reference for s in review.viewer._sources.values() for e in s.examples.values()}
    pages = [browser.get("/review/list")] + [browser.get(f"/review/{n}") for n in range(0, 30, 3)]
    for page in pages:
        lowered = re.sub(r'name="csrf" value="[^"]+"', "", page).lower()
        for hidden in ("confiden", "verbalized", "sequence_probability", "reference", "phantom-gemma", "data-curve",
                       run.name, *records["response"]):  # fmt: skip
            assert hidden.lower() not in lowered
        assert not re.search(r'class="[^"]*\bc(x|\d+)\b', page)
        assert not re.search(r"\b[01]\.\d\d", page)
        shown = " ".join(text for _, text, _ in sentences_of(page))
        assert not any(html.unescape(page).count(reference) for reference in references if reference not in shown)
    for path in ("/example", "/review/0/example", "/?sort=over"):
        answer = browser.client.get(path)
        assert answer.status_code == 404 or "Report</h2>" in answer.text
    script = browser.client.post(
        "/review/0", data={"csrf": "x"}, headers={"origin": "http://127.0.0.1:8000", "accept": "application/json"}
    )
    assert script.status_code == 403
    assert "confiden" not in browser.post("/review/0", sentence=0, rating=4).text


def test_the_prior_study_stands_beside_this_one(
    tmp_path: Path, reviewing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made_up(tmp_path)
    data = tmp_path / "data"
    header, row = (data / "made.csv").read_text().splitlines()
    (data / "made.csv").write_text(f"{header},prior_images\n{row},old.png\n")
    monkeypatch.setattr(registry, "_registered", [])
    registry.register_files([data / "made.yaml"])
    without = reviewing(folder=folder)  # the file that is named is not there
    assert "old.png" in without.browser().get("/review/0")
    assert "Prior study" not in without.browser().get("/review/0")
    Image.new("L", (8, 8), 90).save(data / "old.png")
    review = reviewing(folder=folder)
    (example,) = review.sources["made"].examples.values()
    assert [Path(path).name for path in (*example.images, *example.priors)] == ["film.png", "old.png"]
    assert "prior_images" not in example.attributes
    browser = review.browser()
    page = browser.get("/review/0")
    assert page.index("This study") < page.index('alt="Picture 1 of 1"') < page.index('alt="Prior picture 1 of 1"')
    assert len(set(re.findall(r'<img src="/pictures/(\d+)"', page))) == 2
    assert browser.client.get("/pictures/1").headers["content-type"] == "image/png"


def test_orders(reviewing: Any) -> None:
    review = reviewing("ann", "bob", task=SENTENCE, method="verbalized", order="random")
    first, second = review.order(0), review.order(1)
    assert sorted(first) == sorted(second) == list(range(len(first)))
    assert first != second
    assert reviewing("bob", "ann", task=SENTENCE, method="verbalized", order="random").order(1) == first
    mixed = reviewing(task=SENTENCE, method="verbalized", order="stratified")
    doubtful = reviewing(task=SENTENCE, method="verbalized").order(0)
    place = {number: at * 5 // len(doubtful) for at, number in enumerate(doubtful)}
    order = mixed.order(0)
    for start in range(0, len(order) // 5 * 5 - 5, 5):
        assert len({place[number] for number in order[start : start + 5]}) >= 4
    assert [place[number] for number in order[:10]] != [0, 1, 2, 3, 4] * 2


@given(st.lists(st.tuples(st.integers(0, 10), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=30))
def test_what_reading_costs_and_catches(claims: list[tuple[int, float]]) -> None:
    confidence, correctness = (np.array(column) for column in zip(*claims, strict=True))
    points = workload(confidence * 0.1, correctness)
    errors = sorted((1 - correctness).tolist(), reverse=True)
    assert (points == []) == (sum(errors) == 0)
    for tenth, point in enumerate(points, start=1):
        read = [1 - c for level, c in claims if level < tenth]
        assert point.read == pytest.approx(len(read) / len(claims))
        assert point.caught == pytest.approx(sum(read) / sum(errors))
        assert point.perfect == pytest.approx(sum(errors[: len(read)]) / sum(errors))
        assert point.caught <= point.perfect + 1e-9


def test_a_threshold_of_ones_own_is_a_point_among_the_tenths() -> None:
    confidence, correctness = np.array([0.2, 0.55, 0.57, 0.9]), np.array([0.0, 0.0, 1.0, 1.0])
    points = workload(confidence, correctness, 0.56)
    assert [round(point.threshold, 2) for point in points] == [
        0.1,
        0.2,
        0.3,
        0.4,
        0.5,
        0.56,
        0.6,
        0.7,
        0.8,
        0.9,
        1,
        1.1,
    ]
    assert (points[5].read, points[5].caught) == (0.5, 1.0)
    assert len(workload(confidence, correctness, 0.6 + 1e-12)) == 11  # it is a tenth


def test_the_certified_threshold_is_told(reviewing: Any, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a published bundle, which has patients enough; the run itself is too small for any."""
    from conrad_bench.reviews import certified

    page = reviewing(target=0.6).browser().get("/review/0")
    assert "No threshold is certified for a mean correctness of at least 0.6: fewer than 20 patients" in page
    assert "target" not in reviewing(target=0.6, blind=True, order="random").browser().get("/review/0").casefold()
    real = certified.certified
    monkeypatch.setattr(certified, "certified", lambda _, target: real(BUNDLE, target))
    advice = real(BUNDLE, 0.3)
    task, method = next(key for key, each in advice.items() if key[1] == "verbalized" and each.certified.threshold)
    threshold = advice[task, method].certified.threshold
    page = reviewing(target=0.3, task=task, method=method).browser().get("/review/0")
    assert f"Certified: reports at {threshold:.3g} and above have a mean correctness of at least 0.3" in page
    assert len(re.findall(r"\(certified\)</th>", page)) == 1
    curve = html.unescape(re.findall(r'data-curve="([^"]+)"', page)[0])
    assert [point["threshold"] for point in json.loads(curve) if point["certified"]] == [threshold]
    blind = reviewing(target=0.3, task=task, method=method, blind=True, order="random").browser().get("/review/0")
    assert "ertified" not in blind


# What is kept


def test_entries_are_kept_and_undone(reviewing: Any) -> None:
    review = reviewing()
    browser = review.browser()
    number = number_of(browser.page)
    places = [place for place, _, _ in sentences_of(browser.page)]
    path = f"/review/{number}"
    state = browser.post(path, sentence=places[0], rating=4).json()
    assert (state["ratings"], state["complete"], state["undoable"]) == ({str(places[0]): 4}, 0, True)
    edit = "Klein & <b>fein</b>."
    browser.post(path, sentence=places[0], action="edit", text=edit)
    browser.post(path, judgement="small")
    state = browser.post(path, comment="Why?").json()
    assert state["decisions"] == {str(places[0]): {"action": "edit", "text": edit}}
    page = browser.get(path)
    assert html.escape(edit) in page
    assert "<b>fein" not in page
    assert 'value="4" title="rather accept" aria-label="4, rather accept" aria-pressed="true"' in page
    assert browser.post(path, undo=1).json()["comment"] is None
    assert browser.post(path, undo=1).json()["judgement"] is None
    for place in places:
        state = browser.post(path, sentence=place, action="accept").json()
    assert state["complete"] == 1
    assert state["open"] not in (number, None)
    assert number_of(browser.get("/review")) == state["open"]
    kinds = [event.what for event in review.store.events()]
    assert kinds.count("opened") == 2
    assert kinds.count("undo") == 2


def test_forms_without_scripts_come_back_to_their_sentence(reviewing: Any) -> None:
    browser = reviewing().browser()
    token = re.findall(r'name="csrf" value="([^"]+)"', browser.page)[0]
    path = f"/review/{number_of(browser.page)}"
    place = sentences_of(browser.page)[1][0]
    answer = browser.client.post(
        path, data={"csrf": token, "sentence": place, "rating": 2}, headers=browser.headers, follow_redirects=False
    )
    assert (answer.status_code, answer.headers["location"]) == (303, f"{path}#s{place}")
    assert f'id="s{place}"' in browser.get(path)


def test_a_report_that_is_fetched_ahead_is_opened_when_it_is_shown(reviewing: Any) -> None:
    """The script may fetch the next report, and no other: else reports could be read without a trace."""
    review = reviewing()
    first, second, third = review.order(0)[:3]
    browser, ahead = review.browser(), {"x-ahead": "1"}

    def opened() -> int:
        return sum(event.what == "opened" for event in review.store.events())

    browser.get(f"/review/{first}")
    before = opened()
    answer = browser.client.get(f"/review/{second}", headers=ahead)
    assert (answer.status_code, number_of(answer.text)) == (200, second)
    for other in (first, third):
        refused = browser.client.get(f"/review/{other}", headers=ahead)
        assert (refused.status_code, refused.text) == (204, "")
    assert opened() == before
    for _ in range(2):
        assert browser.post(f"/review/{second}", opened=1).json()["ratings"] == {}
        assert opened() == before + 1
    assert browser.client.get(f"/review/{third}", headers=ahead).status_code == 200
    assert browser.client.post(f"/review/{third}", data={"opened": "1"}, headers=browser.headers).status_code == 403
    assert opened() == before + 1


def test_raters_are_apart(reviewing: Any) -> None:
    review = reviewing("ann", "bob <i>")
    asked = review.browser()
    assert "Who rates?" in asked.page
    assert "bob &lt;i&gt;" in asked.page
    assert asked.post("/review/0", sentence=0, rating=4).status_code == 403
    ann, bob = review.browser(0), review.browser(1)
    place = sentences_of(ann.page)[0][0]
    path = f"/review/{number_of(ann.page)}"
    ann.post(path, sentence=place, rating=1)
    assert bob.post(path, sentence=place, rating=5).json()["ratings"] == {str(place): 5}
    assert ann.post(path, undo=1).json()["ratings"] == {}
    assert bob.post(path, sentence=place, rating=5).json()["ratings"] == {str(place): 5}
    assert asked.post("/review/rater", rater=2).status_code == 400
    names = {event.rater: review.store.raters()[event.rater] for event in review.store.events()}
    assert sorted(names.values()) == ["ann", "bob <i>"]


def test_a_review_goes_on_where_it_stopped(reviewing: Any) -> None:
    first = reviewing(task=SENTENCE, method="verbalized")
    browser = first.browser()
    path = f"/review/{number_of(browser.page)}"
    for place, _, _ in sentences_of(browser.page):
        browser.post(path, sentence=place, rating=3)
    again = reviewing(task=SENTENCE, method="verbalized").browser()
    assert "1 of" in plain(again.page)
    assert f"/review/{number_of(again.page)}" != path
    assert "complete" in again.get("/review/list")
    other = reviewing().browser()  # under other numbers, since all methods are reviewed
    assert "1 of" in plain(other.page)


def test_a_full_disk_is_said_and_the_review_goes_on_behind_it(reviewing: Any) -> None:
    review = reviewing()
    browser = review.browser()
    assert browser.post("/review/0", comment="kept").status_code == 200
    pages = review.store._sqlite.execute("PRAGMA page_count").fetchone()[0]
    review.store._sqlite.execute(f"PRAGMA max_page_count = {pages}")
    answers = [browser.post("/review/0", comment=f"{n} {'x' * 4000}") for n in range(6)]
    assert answers[-1].status_code == 503
    assert "Not saved." in answers[-1].text
    assert "the disk is full" in answers[-1].text
    assert "xxx" not in answers[-1].text
    kept = ["kept", *(answer.json()["comment"] for answer in answers if answer.status_code == 200)]
    review.store._sqlite.execute("PRAGMA max_page_count = 1000000")
    assert browser.post("/review/0", comment="again").json()["comment"] == "again"
    said = [event.after for event in review.store.events() if event.what == "comment"]
    assert said == [*kept, "again"]


# What is refused


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"sentence": 0, "rating": 6}, 400),
        ({"sentence": 0, "rating": "²"}, 400),
        ({"sentence": 0, "rating": ""}, 400),
        ({"sentence": 99, "rating": 4}, 400),
        ({"sentence": -1, "rating": 4}, 400),
        ({"sentence": "x", "rating": 4}, 400),
        ({"rating": 4}, 400),
        ({"sentence": 0, "action": "edit", "text": "  "}, 400),
        ({"sentence": 0, "action": "burn"}, 400),
        ({"comment": "x" * 5001}, 400),
        ({"judgement": "fine"}, 400),
        ({}, 400),
        ({"csrf": "x", "sentence": 0, "rating": 4}, 403),
        ({"csrf": "", "undo": 1}, 403),
        ({"comment": "x" * MOST_BODY}, 413),
        ({f"f{n}": n for n in range(20)}, 400),
    ],
)
def test_what_is_no_entry_is_refused(reviewing: Any, fields: dict[str, Any], status: int) -> None:
    review = reviewing()
    browser = review.browser()
    answer = browser.post("/review/0", **fields)
    assert answer.status_code == status
    assert "x" * 50 not in answer.text
    assert all(event.what == "opened" for event in review.store.events())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9000"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:8000", "sec-fetch-site": "cross-site"}, 403),
        ({"origin": "http://127.0.0.1:8000", "host": "evil.example"}, 421),
        ({"origin": "http://127.0.0.1:8000", "content-type": "text/plain"}, 415),
        ({"origin": "http://127.0.0.1:8000", "content-type": "application/json"}, 415),
    ],
)
def test_another_page_enters_nothing(reviewing: Any, headers: dict[str, str], status: int) -> None:
    """Even where it knew the form's token."""
    review = reviewing()
    browser = review.browser()
    token = re.findall(r'name="csrf" value="([^"]+)"', browser.page)[0]
    answer = browser.client.post("/review/0", content=f"csrf={token}&sentence=0&rating=4", headers=headers)
    assert answer.status_code == status
    assert all(event.what == "opened" for event in review.store.events())


def test_a_token_is_of_one_session(reviewing: Any) -> None:
    review = reviewing()
    ann, eve = review.browser(), review.browser()
    token = re.findall(r'name="csrf" value="([^"]+)"', ann.page)[0]
    assert eve.post("/review/0", csrf=token, undo=1).status_code == 403
    assert ann.post("/review/0", undo=1).status_code == 200


def test_a_session_ends(reviewing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    review = reviewing()
    ann, bob = review.browser(), review.browser()
    assert "The session has ended" in ann.post("/review/end").text
    for answer in (ann.client.get("/review"), ann.client.get("/pictures/0"), ann.post("/review/0", undo=1)):
        assert (answer.status_code, answer.text) == (403, security.NEEDS_TOKEN + "\n")
    assert bob.client.get("/review").status_code == 200
    now = security.time.monotonic()
    monkeypatch.setattr(security.time, "monotonic", lambda: now + 13 * 3600)
    assert bob.client.get("/review").status_code == 403


def test_too_many_writes_are_told_to_wait(reviewing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that was acknowledged is lost, another session is not disturbed, and later it goes on."""
    review = reviewing("ann", "bob")
    ann, bob = review.browser(0), review.browser(1)
    now = security.time.monotonic() + 100
    monkeypatch.setattr(security.time, "monotonic", lambda: now)
    answers = [ann.post("/review/0", comment=f"{n}") for n in range(2 * WRITES_AT_ONCE)]
    accepted = [answer.json()["comment"] for answer in answers if answer.status_code == 200]
    assert len(accepted) == WRITES_AT_ONCE
    assert {answer.status_code for answer in answers} == {200, 429}
    assert answers[-1].headers["retry-after"] == "1"
    assert [event.after for event in review.store.events() if event.what == "comment"] == accepted
    assert bob.post("/review/0", comment="here").status_code == 200
    now += 1
    assert ann.post("/review/0", comment="again").status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/review/99999", "/review/-1", "/review/x", "/review/..%2f..%2freview.sqlite", "/static/../review.sqlite",
     "/review.sqlite", "/review/0/../../x", "/pictures/99999", "/review/list?page=0", "/review/list?page=x"],
)  # fmt: skip
def test_there_is_nothing_but_the_pages(reviewing: Any, path: str) -> None:
    answer = reviewing().browser().client.get(path)
    assert answer.status_code == 404
    assert "That did not work" in answer.text


def test_scripts_are_files_of_this_server(reviewing: Any) -> None:
    browser = reviewing().browser()
    answer = browser.client.get("/review/0")
    policy = HEADERS["content-security-policy"] + SCRIPTS
    assert answer.headers["content-security-policy"] == policy
    assert "unsafe" not in policy
    assert re.findall(r"<script[^>]*>", answer.text) == [
        f'<script type="module" src="/static/{name}.js">' for name in ("film", "review")
    ]
    assert not re.search(r"\son\w+=|style=|<style|javascript:", answer.text)
    for name in ("film", "review"):
        given = browser.client.get(f"/static/{name}.js").headers
        assert given["content-type"].startswith("text/javascript")
        assert given["cache-control"] == security.STATIC  # nobody's; all else is kept nowhere
    assert browser.client.get("/pictures/0").headers["cache-control"] == "no-store"


def test_what_others_wrote_is_text(tmp_path: Path, reviewing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"{EVIL} \x1b[31m‮. Confidence: 3"
    folder = made_up(tmp_path, method=EVIL, id=EVIL, text=text)
    monkeypatch.setattr(registry, "_registered", [])
    registry.register_files([tmp_path / "data" / "made.yaml"])
    browser = reviewing("<script>alert(1)</script>", folder=folder).browser()
    browser.post("/review/0", comment=EVIL)
    browser.post("/review/0", sentence=0, action="edit", text=EVIL)
    for page in (browser.get("/review/0"), browser.get("/review/list"), browser.get("/review/rater")):
        assert "<script>" not in page
        assert not re.search(r"<img (?!src=\"/pictures/)", page)
        assert not set("\x1b‮") & set(plain(page))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("192.0.2.7", True, None, None), "needs --tls-cert FILE"),
        (("192.0.2.7", False, "c", "k"), "--i-understand. Others on the network"),
        (("0.0.0.0", True, "c", "k"), "every network"),
        (("::", True, "c", "k"), "every network"),
        (("my.host", True, "c", "k"), "in numbers"),
        (("192.0.2.7", True, "c", "k"), "cannot be used together"),
        ((None, True, None, None), "belong to --host"),
    ],
)
def test_another_address_needs_all_that_belongs_to_it(arguments: Any, says: str) -> None:
    host, understood, certificate, key = arguments
    with pytest.raises(ConfigError, match=says):
        elsewhere(host, understood, *(None if path is None else Path(path) for path in (certificate, key)))


def test_another_address_is_spoken_to_by_tls_alone(reviewing: Any) -> None:
    app = reviewing().guard.app
    guard = Guard(app, 8443, lambda _: None, scripts=True, host="192.0.2.7")
    assert guard.address() == f"https://192.0.2.7:8443/?token={guard.token}"
    client = TestClient(guard, base_url="https://192.0.2.7:8443", follow_redirects=False)
    moved = client.get(guard.address())
    assert moved.headers["location"] == "https://192.0.2.7:8443/"
    assert "Secure" in moved.headers["set-cookie"]
    token = re.findall(r'name="csrf" value="([^"]+)"', client.get("/review/0").text)[0]
    for origin, status in (("http://192.0.2.7:8443", 403), ("https://192.0.2.7:8443", 303)):
        answer = client.post("/review/0", data={"csrf": token, "undo": 1}, headers={"origin": origin})
        assert answer.status_code == status
    assert client.get("/review", headers={"host": "127.0.0.1:8443"}).status_code == 421
    assert Guard(app, 443, lambda _: None, host="2001:db8::7").address().startswith("https://[2001:db8::7]:443/")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--blind", "--order", "uncertain"), "--order uncertain tells what --blind hides"),
        (("--raters", "a,a"), "somebody twice"),
        (("--raters", "a,,b"), "a rater's name"),
        (("--method", "conrad"), "unknown method"),
        (("--host", "192.0.2.7"), "needs --tls-cert"),
    ],
)
def test_wrong_options_are_named(run: Path, tmp_path: Path, options: tuple[str, ...], says: str) -> None:
    done = conrad_bench("review", str(run), "--no-browser", *options, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


def test_the_log_says_where_it_comes_from(reviewing: Any, run: Path) -> None:
    review = reviewing()
    review.browser()
    rows = review.store._sqlite.execute("SELECT run, model, version FROM sources").fetchall()
    assert all(len(value) == 64 for value in rows[0][:2])
    records = pd.read_parquet(next((run / "records").glob("*.parquet")))
    assert len(records)
    other = Store(run / "review.sqlite", *rows[0])
    assert len(other._sqlite.execute("SELECT * FROM sources").fetchall()) == 1
    other.close()


# What is made of it


def rate_all(review: Reviewing, rater: int, reports: list[int], rating: Any) -> None:
    """Rate every sentence of some reports by the page's own forms; `rating` is asked with report and sentence."""
    browser = review.browser(rater)
    for number in reports:
        page = browser.get(f"/review/{number}")
        for place, _, _ in sentences_of(page):
            review.refill()
            answer = browser.post(f"/review/{number}", sentence=place, rating=rating(number, place))
            assert answer.status_code == 200


def test_ratings_come_back_as_a_csv_and_a_table(reviewing: Any, run: Path) -> None:
    review = reviewing("ann", "=bob", task=SENTENCE, method="verbalized")
    reports = review.order(0)[:12]
    rate_all(review, 0, reports, lambda number, place: 1 + (number + place) % 5)
    rate_all(review, 1, reports[:8], lambda number, place: min(5, 2 + (number + place) % 5))
    ann = review.browser(0)
    ann.post(f"/review/{reports[0]}", undo=1)  # the last sentence of the first report: only =bob has rated it
    ann.get(f"/review/{reports[11]}")
    ann.post(f"/review/{reports[11]}", undo=1)  # now nobody has
    done = conrad_bench("ratings", "export", str(run), cwd=run.parent)
    assert (done.returncode, done.stdout) == (0, f"ratings: {run / 'review.csv'}\n")
    assert done.stderr == "left out: 1 reports with a sentence that nobody has rated\n"
    assert (run / "review.csv").stat().st_mode & 0o077 == 0
    table = pd.read_csv(run / "review.csv")
    records = open_run(run).records("verbalized", SENTENCE)
    keys = [review.reports.all[number].response for number in reports[:11]]
    expected = records[records["response"].isin(keys)]
    assert set(zip(table["response"], table["sentence"], strict=True)) == set(
        zip(expected["response"], expected["claim"], strict=True)
    )
    assert set(table["rater"]) == {"ann", "'=bob"}  # no formula for a spreadsheet
    for command, says in (("score", "Sentences, accepted"), ("agreement", "weighted kappa")):
        done = conrad_bench("ratings", command, str(run), cwd=run.parent)
        assert done.returncode == 0, done.stderr
        assert says in done.stdout
        assert "left out: 1 reports" in done.stderr
    assert conrad_bench("verify", str(run), cwd=run.parent).returncode == 0  # a review is no part of the run


def test_corrected_reports_are_references(reviewing: Any, run: Path, tmp_path: Path) -> None:
    review = reviewing("ann", "bob", task="mimic_report", method="verbalized")
    ann = review.browser(0)
    texts = []
    for number in review.order(0)[:3]:
        page = ann.get(f"/review/{number}")
        parts = [text for _, text, _ in sentences_of(page)]
        for place, _, _ in sentences_of(page):
            review.refill()
            ann.post(f"/review/{number}", sentence=place, action="accept")
        ann.post(f"/review/{number}", sentence=0, action="edit", text='Ein, "anderer" Satz;\nso.')
        ann.post(f"/review/{number}", sentence=1, action="reject")
        texts.append(" ".join(['Ein, "anderer" Satz;\nso.', *parts[2:]]))
    ann.get(f"/review/{review.order(0)[3]}")
    ann.post(f"/review/{review.order(0)[3]}", sentence=0, action="accept")
    out = tmp_path / "out"
    done = conrad_bench("ratings", "export", str(run), "--as-references", "--out", str(out), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"3 references: {out / 'corrected_reports.yaml'}" in done.stdout
    assert "left out: 1 reports with a sentence that is not accepted, edited or rejected" in done.stderr
    from conrad_bench.registry import Registry

    task = Registry([out / "corrected_reports.yaml"]).create("tasks", "corrected_reports", {})
    loaded = {example.id: example for example in task.load(out).examples}
    assert sorted(example.reference for example in loaded.values()) == sorted(texts)
    original = {e.id: e for e in review.sources["mimic_report"].examples.values()}
    for id, example in loaded.items():
        assert (example.images, example.context, example.cluster, example.split) == (
            original[id].images, original[id].context, original[id].cluster, original[id].split
        )  # fmt: skip
    review.browser(1).post(f"/review/{review.order(0)[0]}", sentence=0, action="reject")
    done = conrad_bench("ratings", "export", str(run), "--as-references", "--out", str(out), cwd=tmp_path)
    assert done.returncode == 2
    assert "--rater NAME says whose reports are meant: ann, bob" in done.stderr
    done = conrad_bench(
        "ratings", "export", str(run), "--as-references", "--rater", "bob", "--out", str(out), cwd=tmp_path
    )
    assert done.returncode == 2
    assert "no corrected report can be written: 1 reports with a sentence that is not" in done.stderr


def test_a_run_without_a_review_says_so(run: Path, tmp_path: Path) -> None:
    for command in (("export",), ("score",), ("agreement",), ("export", "--as-references")):
        done = conrad_bench("ratings", command[0], str(run), *command[1:], cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert "holds no review" in done.stderr
