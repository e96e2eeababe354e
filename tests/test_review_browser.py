"""A review as it is held: in a real browser by keyboard, over a killed server, by three raters, under attack."""

from __future__ import annotations

import concurrent.futures
import html
import http.client
import json
import random
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlencode, urlsplit

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from test_cli import conrad_bench
from test_html import AXE, CHROMIUM
from test_review import SENTENCE, sentences_of
from test_view import EVIL, made_up

from conrad_bench import open_run
from conrad_bench.leaderboards.agreement import agreement_table
from conrad_bench.leaderboards.ratings import ratings_table
from conrad_bench.reviews.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of more than fifty test studies at sentence level."""
    folder = tmp_path_factory.mktemp("review") / "run"
    done = conrad_bench(
        "run", "--methods", "sequence_probability", "--tasks", SENTENCE, "-o", "phantom.studies=200",
        "-o", "bootstrap.replicates=200", "--out", str(folder), cwd=folder.parent, OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


class Server:
    """`conrad-bench review` in a process of its own."""

    running: ClassVar[list[Server]] = []

    def __init__(self, run: Path, *options: str) -> None:
        command = [sys.executable, "-c", "from conrad_bench.cli import main; main()", "review", str(run)]
        self.process = subprocess.Popen(
            [*command, "--no-browser", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.running.append(self)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address, self.process.communicate()[1]

    def end(self, how: int = signal.SIGINT) -> None:
        self.running.remove(self)
        self.process.send_signal(how)
        self.process.communicate(timeout=30)


class Client:
    """A browser's part of the page's own interface, with a connection that stays open."""

    def __init__(self, address: str, rater: int | None = None) -> None:
        parts = urlsplit(address)
        self.origin = f"http://{parts.netloc}"
        self._connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)
        self._cookie = ""
        _, _, headers = self.ask("GET", f"/?{parts.query}")
        self._cookie = str(headers["set-cookie"]).partition(";")[0]
        page = self.ask("GET", "/review/rater")[1]
        self.token = re.findall(r'name="csrf" value="([^"]+)"', page)[0]
        if rater is not None:
            assert self.post("/review/rater", rater=rater)[0] == 303

    def close(self) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, body: str | None = None, **headers: str) -> tuple[int, str, Any]:
        self._connection.request(method, path, body, {"Cookie": self._cookie, **headers})
        answer = self._connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers

    def post(self, path: str, **fields: Any) -> tuple[int, str]:
        body = urlencode({"csrf": self.token, **fields})
        kind = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        while True:
            status, text, _ = self.ask("POST", path, body, Origin=self.origin, **kind)
            if status != 429:
                return status, text
            time.sleep(0.2)


@pytest.fixture
def pages(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Chromium, driven; the pages of a context by its colours and width."""
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])

        def page(scheme: str = "dark", width: int = 1400, **more: Any) -> Any:
            context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 1000}, **more)
            made = context.new_page()
            made.set_default_timeout(20_000)
            return made

        yield page
        browser.close()


@pytest.fixture
def run(made: Path) -> Iterator[Path]:
    yield made
    for server in list(Server.running):  # of a test that failed
        server.end(signal.SIGKILL)
    for path in made.glob("review*"):
        path.unlink()


def saved(page: Any) -> None:
    page.wait_for_selector("#saved:text-matches('^Saved at')")


def test_ten_studies_by_keyboard_over_a_killed_server(run: Path, pages: Any) -> None:
    """Open, rate, edit a sentence, kill -9, restart, go on, export, score."""
    options = ("--raters", "ann", "--port", "0")
    server = Server(run, *options)
    page = pages()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    keys, typed = page.keyboard, 'Es ist "anders" & <b>neu</b>.'

    def rate(studies: int) -> None:
        for _ in range(studies):
            page.wait_for_selector(".sentence.now")
            for n in range(page.locator(".sentence").count()):
                keys.press(str(1 + n % 5))
                keys.press("j")
            saved(page)
            before = page.url
            keys.press("g")
            page.wait_for_url(lambda url, before=before: url != before)

    page.goto(server.address)
    rate(4)
    page.wait_for_selector(".sentence.now")
    edited = page.url
    keys.press("e")
    keys.press("Control+A")
    keys.type(typed)
    keys.press("Control+Enter")
    saved(page)
    assert page.locator(".sentence.now .new").inner_text() == typed
    keys.press("2")
    saved(page)
    server.end(signal.SIGKILL)
    keys.press("j")
    keys.press("5")  # said to nobody: the page must not call it saved
    page.wait_for_selector("#saved:text-matches('^Not saved: the server does not answer')")
    server = Server(run, *options)
    page = pages()
    page.on("pageerror", lambda error: problems.append(str(error)))
    keys = page.keyboard
    page.goto(server.address)
    assert page.locator("#count").inner_text().startswith("4 of")
    assert urlsplit(page.url).path == urlsplit(edited).path  # the first that is not complete
    assert page.locator(".sentence .new:visible").inner_text() == typed
    rate(6)
    keys.press("?")
    page.wait_for_selector("#help[open]")
    page.goto(page.url.partition("/review")[0] + "/review/list")
    assert page.locator("#count").inner_text().startswith("10 of")
    server.end()
    assert [text for text in problems if "ERR_CONNECTION" not in text] == []
    done = conrad_bench("ratings", "export", str(run), cwd=run.parent)
    assert done.returncode == 0, done.stderr
    table = ratings_table(run, run / "review.csv")
    assert (table["reports"], table["raters"]) == (10, 1)
    assert conrad_bench("ratings", "score", str(run), cwd=run.parent).returncode == 0


def test_three_raters_give_the_table_that_their_noise_implies(run: Path) -> None:
    """Fifty studies. The truth is the scorer's correctness of a sentence; a rating is it and noise of known size."""
    spread = {"ann": 0.4, "bob": 0.8, "cid": 1.2}
    records = open_run(run).records()
    truth = {(r, c): v for r, c, v in records[["response", "claim", "correctness"]].itertuples(index=False)}
    server = Server(run, "--raters", ",".join(spread), "--blind")
    given: dict[str, dict[tuple[str, int], int]] = defaultdict(dict)
    path_of = {}
    first = Client(server.address, 0)
    for number in range(50):
        status, page, _ = first.ask("GET", f"/review/{number}")
        assert status == 200
        path_of[html.unescape(re.findall(r"<h1>(.*)</h1>", page)[0])] = number
    response = dict(zip(records["example"], records["response"], strict=True))

    def rate(place: int, name: str) -> None:
        client, draw = Client(server.address, place), random.Random(name)
        for example, number in path_of.items():
            _, page, _ = client.ask("GET", f"/review/{number}")
            for sentence, _, _ in sentences_of(page):
                key = response[example], sentence
                rating = min(5, max(1, round(1.5 + 3 * truth[key] + draw.gauss(0, spread[name]))))
                status, text = client.post(f"/review/{number}", sentence=sentence, rating=rating)
                assert status == 200
                assert json.loads(text)["ratings"][str(sentence)] == rating
                given[name][key] = rating
        client.close()

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(rate, place, name) for place, name in enumerate(spread)]:
            done.result()
    first.close()
    server.end()
    assert conrad_bench("ratings", "export", str(run), cwd=run.parent).returncode == 0
    table = ratings_table(run, run / "review.csv")
    assert (table["raters"], table["reports"]) == (3, 50)
    keys = list(given["ann"])
    assert table["ratings"] == 3 * len(keys)
    rows = {row["aggregation"]: row["metrics"] for row in table["rows"]}
    confidence = records.set_index(["response", "claim"])["confidence"].to_dict()
    stated = [confidence[key] for key in keys]
    means = np.array([np.mean([(given[name][key] - 1) / 4 for name in spread]) for key in keys])
    accepted = [sum(given[name][key] >= 4 for name in spread) >= 2 for key in keys]
    assert rows["sentence_mean"]["pearson"]["value"] == pytest.approx(pearsonr(stated, means)[0])
    assert rows["sentence_accepted"]["auroc"]["value"] == pytest.approx(roc_auc_score(accepted, stated))
    # What noise does to a correlation: it is that with the truth, times how far the ratings follow the truth.
    true = np.array([truth[key] for key in keys])
    implied = pearsonr(stated, true)[0] * pearsonr(means, true)[0]
    interval = rows["sentence_mean"]["pearson"]
    assert interval["low"] < implied < interval["high"]
    agreed = agreement_table(run, run / "review.csv")
    kappas = {}
    for pair in agreed["pairs"]:
        a, b = pair["raters"]
        first_, second = ([given[name][key] for key in keys] for name in (a, b))
        kappas[a, b] = pair["kappa"]["value"]
        assert kappas[a, b] == pytest.approx(cohen_kappa_score(first_, second, weights="quadratic"))
    assert kappas["ann", "bob"] > kappas["ann", "cid"] > kappas["bob", "cid"]  # in the order of their noise
    package = pytest.importorskip("krippendorff")
    matrix = [[given[name][key] for key in keys] for name in spread]
    expected = package.alpha(reliability_data=matrix, level_of_measurement="ordinal")
    assert agreed["alpha"]["value"] == pytest.approx(expected)


def test_ten_thousand_rapid_requests_lose_nothing(run: Path) -> None:
    """From four sessions of two raters at once, faster than allowed; then the server is killed."""
    server = Server(run, "--raters", "ann,bob")
    clients = [Client(server.address, place % 2) for place in range(4)]
    acknowledged: list[list[str]] = [[] for _ in clients]

    def storm(place: int) -> set[int]:
        client, seen = clients[place], set()
        kind = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        for n in range(2500):
            text = f"{place} {n}"
            body = urlencode({"csrf": client.token, "comment": text})
            status, said, _ = client.ask("POST", f"/review/{place}", body, Origin=client.origin, **kind)
            seen.add(status)
            if status == 200:
                assert json.loads(said)["comment"] == text
                acknowledged[place].append(text)
        client.close()
        return seen

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = set().union(*pool.map(storm, range(4)))
    server.end(signal.SIGKILL)
    assert {200} <= answers <= {200, 429}  # a busy machine is no faster than what is allowed
    store = Store(run / "review.sqlite")
    kept: dict[str, list[str]] = defaultdict(list)
    for event in store.events():
        if event.what == "comment":
            kept[event.after[0]].append(event.after)
    store.close()
    assert [kept[str(place)] for place in range(4)] == acknowledged
    assert all(len(each) >= 60 for each in acknowledged)


def test_nothing_that_others_wrote_runs(tmp_path: Path, pages: Any) -> None:
    """Scripts in a report, an id, an indication, a method's name, a rater's name, a correction and a comment."""
    folder = made_up(tmp_path, method=EVIL, id=EVIL, text=f"{EVIL} It is. Confidence: 3")
    name = "<img src=x onerror=document.title='ran'>"
    server = Server(folder, "--plugin", str(tmp_path / "data" / "made.yaml"), "--raters", f"{name},bob")
    page = pages()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server.address)
    page.get_by_role("button", name=name).click()
    page.wait_for_selector(".sentence.now")
    page.keyboard.press("e")
    page.keyboard.type(EVIL)
    page.keyboard.press("Control+Enter")
    saved(page)
    page.keyboard.press("c")
    page.keyboard.type(EVIL)
    page.locator("text=Save the comment").click()
    saved(page)
    for path in (page.url, page.url.partition("/review")[0] + "/review/list"):
        page.goto(path)
        assert page.title() != "ran"
        assert name in page.locator(".who").inner_text()
    assert {urlsplit(url).netloc for url in asked} == {urlsplit(server.address).netloc}
    server.end()


@pytest.mark.skipif(AXE is None, reason="no axe-core: `npm install axe-core` at the root of the repository")
@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("width", [420, 1400])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_screen(run: Path, pages: Any, scheme: str, width: int) -> None:
    assert AXE is not None
    script = AXE.read_text(encoding="utf-8")
    for options in (("--raters", "ann,bob"), ("--raters", "ann", "--blind")):
        server = Server(run, *options)
        page = pages(scheme, width, bypass_csp=True)  # for axe's own script alone
        page.goto(server.address)
        found = []
        for step in range(4):
            if step == 1 and "--blind" not in options:
                page.get_by_role("button", name="ann").click()
            if step == 2:
                page.wait_for_selector(".sentence.now")
                for key in ("4", "j", "r", "j", "e"):
                    page.keyboard.press(key)
                page.keyboard.press("Escape")
                page.keyboard.press("?")
                page.locator("summary").first.click()
                saved(page)
            if step == 3:
                page.goto(page.url.partition("/review")[0] + "/review/list")
            page.evaluate(script)
            seen = page.evaluate("axe.run().then((r) => r.violations.map((v) => `${v.id} ${v.nodes[0].html}`))")
            wide = page.evaluate("document.documentElement.scrollWidth > innerWidth")
            found += [f"{step} {each}" for each in seen] + [f"{step} too wide"] * wide
        server.end()
        assert found == []


def test_pictures_are_zoomed_moved_windowed_and_inverted(run: Path, pages: Any) -> None:
    server = Server(run)
    page = pages()
    page.goto(server.address)
    page.wait_for_selector(".film .tools")
    image = page.locator(".film img").first

    def style(name: str) -> str:
        return str(image.evaluate(f"(element) => element.style.{name}"))

    plain = image.screenshot()
    assert "scale(1)" in style("transform")
    page.keyboard.press("i")
    assert "url" in style("filter")
    inverted = image.screenshot()
    assert inverted != plain
    page.keyboard.press("i")
    page.keyboard.press("+")
    page.keyboard.press("+")
    assert "scale(1.5625)" in style("transform")
    page.locator(".film").first.focus()
    page.keyboard.press("ArrowRight")
    assert "translate(0px" not in style("transform")
    page.keyboard.press("Shift+ArrowLeft")
    assert image.evaluate("(element) => element.src").endswith("/large")
    page.keyboard.press("0")
    assert ("scale(1)" in style("transform"), style("filter")) == (True, "")
    box = page.locator(".stage").first.bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.wheel(0, -100)
    page.wait_for_timeout(200)
    assert "scale(1.15)" in style("transform")
    server.end()


def test_the_next_report_is_there_before_it_is_asked_for(run: Path, pages: Any) -> None:
    """It takes the place of this one, is opened then, and its entries are its own; Back leads back."""
    server = Server(run)
    page = pages()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))

    def ahead(answer: Any) -> bool:
        return answer.request.headers.get("x-ahead") == "1"

    def opened() -> list[int]:
        store = Store(run / "review.sqlite")
        try:
            return [event.report for event in store.events() if event.what == "opened"]
        finally:
            store.close()

    with page.expect_response(ahead):
        page.goto(server.address)
    page.wait_for_timeout(2000)  # its pictures
    first, url = page.locator("h1").inner_text(), page.url
    assert len(opened()) == 1
    page.evaluate("window.same = true")
    with page.expect_response(ahead):  # of the report behind the next
        page.keyboard.press("n")
    page.wait_for_selector(".sentence.now")
    second = page.locator("h1").inner_text()
    assert page.evaluate("window.same") is True
    assert (second != first, page.url != url, second in page.title()) == (True, True, True)
    assert len(opened()) == 2
    page.keyboard.press("2")
    saved(page)
    page.keyboard.press("i")
    assert "url" in page.locator(".film img").first.evaluate("(element) => element.style.filter")
    page.keyboard.press("c")
    page.keyboard.type("not yet left")
    page.keyboard.press("Escape")
    saved(page)
    page.go_back()
    page.wait_for_function("(first) => document.querySelector('h1').textContent === first", arg=first)
    page.wait_for_selector(".sentence.now")
    assert page.locator('.sentence [aria-pressed="true"]').count() == 0
    page.goto(page.url.rpartition("/")[0] + "/list")
    page.locator(f'a:text-is("{second}")').first.click()
    page.wait_for_selector(".sentence.now")
    assert page.locator('.sentence [aria-pressed="true"]').inner_text() == "2"
    assert page.locator("#comment").input_value() == "not yet left"
    assert problems == []
    server.end()


def test_without_scripts_everything_is_a_form(run: Path, pages: Any) -> None:
    server = Server(run)
    page = pages(java_script_enabled=False)
    page.goto(server.address)
    first = page.locator(".sentence").first
    first.locator('button[value="4"]').click()
    assert "#s" in page.url
    assert first.locator('button[value="4"]').get_attribute("aria-pressed") == "true"
    first.locator("summary").click()
    first.locator("textarea").fill("Corrected <b>so</b>.")
    first.locator("text=Save the correction").click()
    assert first.locator(".new").inner_text() == "Corrected <b>so</b>."
    page.locator("#undo").click()
    first.locator(".new").wait_for(state="attached")
    first.locator(".new").wait_for(state="hidden")
    page.locator("text=small changes").click()
    page.locator("text=End session").click()
    assert "The session has ended" in page.content()
    page.goto(server.address.partition("/?")[0])
    assert "This page is closed" in page.content()
    server.end()
