"""The viewer: what it shows of a run, and what it refuses."""

from __future__ import annotations

import csv
import html
import http.client
import io
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from starlette.routing import Route
from starlette.testclient import TestClient
from test_cli import conrad_bench
from test_html import AXE, CHROMIUM

from conrad_bench import open_run
from conrad_bench.errors import ConfigError, DataError, MissingExtra, StorageError
from conrad_bench.progress import Reporter
from conrad_bench.records import write_records
from conrad_bench.registry import Registry
from conrad_bench.rollouts.store import RolloutStore
from conrad_bench.serving import viewer
from conrad_bench.serving.films import MOST, Films
from conrad_bench.serving.filters import SORTS
from conrad_bench.serving.marks import Judged, find_format, pieces
from conrad_bench.serving.security import HEADERS, Guard
from conrad_bench.serving.server import check_installed, listening, make_viewer

SENTENCE = "mimic_sentence"
EVIL = "\"'><script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\">"
YAML = "title: made up\ngranularity: sentence\nfile: made.csv\ninstruction: Describe it.\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of two tasks, with a method whose confidences were mapped."""
    folder = tmp_path_factory.mktemp("view") / "run"
    done = conrad_bench(
        "run", "--methods", "verbalized,sequence_probability,verbalized+isotonic", "--tasks", f"{SENTENCE},vqa_rad",
        "-o", "phantom.studies=60", "-o", "bootstrap.replicates=20", "--out", str(folder),
        cwd=folder.parent, OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def client(run: Path) -> Iterator[TestClient]:
    """A browser in front of the pages, without the guard."""
    shown, app = make_viewer(run, Reporter(quiet=True))
    yield TestClient(app)
    shown.films.close()


@pytest.fixture(scope="module")
def records(run: Path) -> pd.DataFrame:
    """What the pages should show."""
    return open_run(run).responses()


def made_up(folder: Path, method: str = "verbalized", id: str = "a", text: str = "It is. Confidence: 9") -> Path:
    """Write a run of one sentence task with texts of one's own and a picture of full size, and return its folder."""
    data, run = folder / "data", folder / "run"
    data.mkdir(parents=True)
    run.mkdir()
    film = np.random.default_rng(0).integers(0, 255, (3056, 2544), np.uint8)
    Image.fromarray(film).save(data / "film.png", compress_level=1)
    with open(data / "made.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "patient", "images", "indication", "reference", "split", "site"])
        rows.writerow([id, "p", "film.png", f"Why? {text}", f"Reference. {text}", "test", text])
    (data / "made.yaml").write_text(YAML)
    (run / "config.yaml").write_text(f"methods: [verbalized]\ntasks: [made]\ndata_roots: {{made: {data}}}\n")
    row = {"key": "k", "kind": "generate", "sample": 0, "text": text, "token_ids": [1], "logprobs": None}
    with RolloutStore(run / "rollouts") as store:
        store.append([{**row, "finish_reason": "stop", "values": None}])
    task = Registry([data / "made.yaml"]).create("tasks", "made", {})
    from conrad_bench.types import Response

    claims = task.claims(Response("k", text, (1,), None, "stop"), "sentence_confidence")
    record = {
        "task": "made", "method": method, "example": id, "cluster": "p", "correctness": 0.0, "response": "k",
        "site": text,
    }  # fmt: skip
    found = [
        {**record, "claim": n, "confidence": claim.confidence, "status": claim.status} for n, claim in enumerate(claims)
    ]
    write_records(run / "records" / "made.parquet", found)
    return run


def opened(run: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """Open the pages of a made-up run."""
    from conrad_bench import registry

    monkeypatch.setattr(registry, "_registered", [])
    registry.register_files([run.parent / "data" / "made.yaml"])
    return TestClient(make_viewer(run, Reporter(quiet=True))[1])


def listed(page: str) -> list[str]:
    """Return the links of a page's claims."""
    return [html.unescape(found) for found in re.findall(r'<th scope="row"><a href="([^"]+)"', page)]


def count(page: str) -> int:
    found = re.search(r"<strong>([\d,]+)</strong> of", page)
    assert found is not None
    return int(found[1].replace(",", ""))


def next_page(page: str) -> str | None:
    found = re.search(r'<a href="([^"]+)" rel="next"', page)
    return html.unescape(found[1]) if found else None


def plain(page: str) -> str:
    """Return a page's text."""
    return html.unescape(re.sub(r"<[^>]+>", "", page))


# What is shown


@pytest.mark.parametrize(
    ("query", "expression"),
    [
        ({}, "claim >= 0"),
        ({"task": SENTENCE}, "task == 'mimic_sentence'"),
        ({"method": "verbalized"}, "method == 'verbalized'"),
        ({"method": "verbal"}, "method == 'verbal'"),
        ({"status": "ok", "confidence.from": "0.85"}, "status == 'ok' and confidence >= 0.85"),
        ({"confidence.from": ".5", "confidence.to": "0.9", "correctness.to": "0"},
         "0.5 <= confidence <= 0.9 and correctness <= 0"),
        ({"by.view": "AP", "by.age": "73"}, "view == 'AP' and age == 73"),
        ({"by.image_quality.to": "0.3"}, "image_quality <= 0.3"),
        ({"by.nothing": "1", "unknown": "x"}, "claim >= 0"),
    ],
)  # fmt: skip
def test_filters_leave_what_they_say(
    client: TestClient, records: pd.DataFrame, query: dict[str, str], expression: str
) -> None:
    answer = client.get("/", params=query)
    assert answer.status_code == 200
    assert count(answer.text) == len(records.query(expression, engine="python"))


@pytest.mark.parametrize("sort", SORTS)
def test_claims_come_in_their_order_and_every_one_once(client: TestClient, records: pd.DataFrame, sort: str) -> None:
    seen: list[tuple[str, ...]] = []
    path: str | None = f"/?sort={sort}&task={SENTENCE}"
    while path:
        page = client.get(path).text
        for row in re.findall(r"<tr>\n<th scope=\"row\">.*?</tr>", page, re.DOTALL):
            seen.append(tuple(plain(cell).strip() for cell in re.findall(r'<t[dh][^>]*class="n"[^>]*>(.*?)</t', row)))
        path = next_page(page)
    part = records[records["task"] == SENTENCE]
    over = part["confidence"] - part["correctness"]
    keys = {
        "gap": -over.abs(), "over": -over, "under": over, "doubtful": part["confidence"], "sure": -part["confidence"],
        "wrong": part["correctness"], "right": -part["correctness"],
    }  # fmt: skip
    assert len(seen) == len(part)
    if sort != "example":
        ordered = part.loc[keys[sort].sort_values(kind="stable").index]
        column = {"doubtful": 0, "sure": 0, "wrong": 1, "right": 1}.get(sort)
        shown = ordered[["confidence", "correctness"]].to_numpy()
        gaps = (ordered["confidence"] - ordered["correctness"]).abs()
        expected = [f"{v:.2f}" for v in (gaps if column is None else shown[:, column])]
        assert [row[2 if column is None else column] for row in seen] == expected


def test_the_way_through_the_examples_is_that_of_the_list(client: TestClient, records: pd.DataFrame) -> None:
    """Each example once, forwards and back, with the filters kept."""
    first = listed(client.get(f"/?task={SENTENCE}&by.view=PA&sort=over").text)[0]
    path: str | None = first.partition("#")[0]
    ids = []
    while path:
        page = client.get(path).text
        assert "task=mimic_sentence&amp;by.view=PA&amp;sort=over" in page
        ids.append(parse_qs(urlsplit(path).query)["id"][0])
        path = next_page(page)
    expected = records.query("task == @SENTENCE and view == 'PA'")["example"].unique()
    assert len(ids) == len(set(ids)) == len(expected)
    assert f"example {len(ids)} of {len(ids)}" in page
    assert 'rel="prev"' in page


@pytest.mark.parametrize("task", [SENTENCE, "vqa_rad"])
def test_every_claim_is_shaded_where_it_stands(client: TestClient, records: pd.DataFrame, task: str) -> None:
    for id in records[records["task"] == task]["example"].unique():
        page = client.get("/example", params={"of": task, "id": id}).text
        part = records.query("task == @task and example == @id")
        for number, method in enumerate(sorted(records["method"].unique())):
            rows = part[part["method"] == method]
            text = rows["text"].iloc[0]
            marks = re.findall(rf'<mark class="(c\w+)" id="c{number}-(\d+)">([^<]*)</mark>(.*?)</span></span>', page)
            assert [int(place) for _, place, _, _ in marks] == list(range(len(rows)))
            for (level, _, words, beside), confidence in zip(marks, rows["confidence"], strict=True):
                assert html.unescape(words) in text
                assert "Confidence" not in words
                assert level == f"c{int(confidence * 10 + 0.5)}"
                assert f"{confidence:.2f}" in beside
    assert "Without picture" not in page


def test_an_example_has_picture_prompt_reference_and_scores(client: TestClient, records: pd.DataFrame) -> None:
    one = records[records["task"] == "vqa_rad"].iloc[0]
    page = client.get("/example", params={"of": "vqa_rad", "id": one["example"]}).text
    assert "<h2>Question</h2>" in page
    assert "<h2>Reference</h2>" in page
    assert 'alt="Picture 1 of 1 of' in page
    assert page.count("<article>") == 3
    assert f">{one['correctness']:.2f}<" in page
    assert "Phantom data" in page
    picture = client.get(re.findall(r'<img src="([^"]+)"', page)[0])
    assert picture.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(picture.content)).size == (64, 64)


@pytest.mark.parametrize(
    "path",
    ["/pictures/99999", "/pictures/-1", "/pictures/0/small", "/pictures/..%2f..%2fconfig.yaml", "/pictures/1.png",
     "/static/../pages.py", "/static/%2e%2e/pages.py", "/static/", "/etc/passwd", "/example?of=x&id=../../x", "/x"],
)  # fmt: skip
def test_there_is_nothing_but_the_pages_and_the_runs_pictures(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "That did not work" in answer.text


@pytest.mark.parametrize(
    "query", ["sort=up", "page=0", "page=-1", "page=²", "confidence.from=much", "correctness.to=nan"]
)
def test_an_address_that_cannot_be_read_is_said(client: TestClient, query: str) -> None:
    answer = client.get(f"/?{query}")
    assert answer.status_code == 400
    assert "The address cannot be read" in answer.text
    assert "much" not in answer.text


def test_the_last_page_stands_for_those_behind_it_and_nothing_left_is_said(client: TestClient) -> None:
    assert "page 1 of 1" in client.get(f"/?page=99&task={SENTENCE}&method=verbalized&by.view=AP").text
    assert "No claim is left" in client.get("/?method=none").text


def test_a_form_leads_to_a_short_address(client: TestClient) -> None:
    answer = client.get("/?task=vqa_rad&method=&confidence.from=&by.view=&sort=gap", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/?task=vqa_rad")
    assert client.get("/?task=&method=", follow_redirects=False).headers["location"] == "/"


def test_many_pages(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "ROWS", 7)
    page = client.get("/?page=2").text
    assert len(listed(page)) == 7
    assert "page=1" in page
    assert "page=3" in page


def test_a_run_without_its_data_has_its_texts_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made_up(tmp_path)
    page = opened(run, monkeypatch).get("/example?of=made&id=a").text
    assert "was not checked" in page
    assert "Why?" in page
    (tmp_path / "data" / "made.csv").write_text("id,patient,images,indication,reference,split\n")
    (tmp_path / "data" / "made.csv").rename(tmp_path / "gone.csv")
    client = opened(run, monkeypatch)
    assert "without pictures, questions and references" in client.get("/").text
    page = client.get("/example?of=made&id=a").text
    assert "made.csv" in page
    assert "<img" not in page
    assert "<mark" in page
    (run / "config.yaml").unlink()
    (run / "context.json").write_text("{}")
    assert "It is." in opened(run, monkeypatch).get("/example?of=made&id=a").text


def test_other_data_are_not_shown_beside_the_responses(run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "run")
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("studies: 60", "studies: 60\n    seed: 1"))
    page = TestClient(make_viewer(other, Reporter(quiet=True))[1]).get("/").text
    assert "do not hold the examples of this run" in page
    for path in (other / "records").iterdir():
        records = pd.read_parquet(path)
        write_records(path, records, {"test examples": "0" * 64})
    (other / "config.yaml").write_text(config)
    page = TestClient(make_viewer(other, Reporter(quiet=True))[1]).get("/").text
    assert "have changed since the run" in page


def test_what_others_wrote_is_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"{EVIL} \x1b[31m‮. Confidence: 3"
    client = opened(made_up(tmp_path, method=EVIL, id=EVIL, text=text), monkeypatch)
    pages = [
        client.get("/").text,
        client.get(f"/?{urlencode({'example': EVIL, 'method': EVIL, 'by.site': text})}").text,
    ]
    pages.append(client.get(listed(pages[0])[0]).text)
    for page in pages:
        assert "&lt;script&gt;" in page
        assert "<script" not in page
        assert not re.search(r"<img (?!src=\"/pictures/)", page)
        assert not set("\x1b‮") & set(plain(page))
        assert "style=" not in page
    assert count(pages[1]) >= 1


def test_a_plugin_that_fails_costs_the_shades_alone() -> None:
    class Fails:
        granularity = "sentence"

        def claims(self, *_: Any) -> Any:
            raise RuntimeError("a report")

    judged = [Judged(0, 0.5, 1.0, "ok")]
    assert find_format(Fails(), [("It is.", judged)]) is None  # type: ignore[arg-type]
    assert [piece.claim for piece in pieces(Fails(), "It is.", judged, None)] == [None]  # type: ignore[arg-type]
    assert pieces(None, "", judged, None) == []


# Pictures


def test_films_are_scaled_and_kept_while_there_is_room(tmp_path: Path) -> None:
    paths = []
    for number in range(3):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(np.full((3056, 2544), number, np.uint8)).save(paths[-1])
    films = Films(paths, room=1)
    for size, most in MOST.items():
        image = Image.open(io.BytesIO(films.get(0, size).data))
        assert max(image.size) == most
        assert (image.mode, image.format) == ("L", "JPEG")
        assert image.width / image.height == pytest.approx(2544 / 3056, abs=0.001)
    films.prepare([1, 2])
    films.get(2, "page")
    films.get(1, "page")
    films.close()
    assert len(films._made) == 1
    assert films._used < 100_000


def test_a_picture_that_cannot_be_read_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    films = Films([str(path)])
    with pytest.raises(DataError):
        films.get(0, "page")
    Image.new("RGB", (8, 8), "red").save(path)
    assert films.get(0, "page").media_type == "image/png"
    with pytest.raises(IndexError):
        films.get(1, "page")
    films.close()


# The guard


def guarded(said: list[str] | None = None) -> tuple[Guard, TestClient]:
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse

    def fail(_request: Any) -> Any:
        raise ValueError("Mr Miller's report")

    def page(_request: Any) -> Any:
        return PlainTextResponse("a page")

    routes = [Route("/", page, methods=["GET", "POST"]), Route("/a b", page), Route("/fail", fail)]
    guard = Guard(Starlette(routes=routes), 8000, (said if said is not None else []).append)
    return guard, TestClient(guard, base_url="http://127.0.0.1:8000", follow_redirects=False)


def test_the_token_becomes_a_cookie() -> None:
    guard, client = guarded()
    assert guard.address() == f"http://127.0.0.1:8000/?token={guard.token}"
    assert len(guard.token) >= 43
    moved = client.get(guard.address() + "&task=x")
    assert (moved.status_code, moved.headers["location"]) == (303, "http://127.0.0.1:8000/?task=x")
    cookie = moved.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert guard.token not in cookie
    assert "expires" not in cookie.lower()
    assert client.get("/").text == "a page"
    assert client.get(f"/a%20b?token={guard.token}").headers["location"] == "http://127.0.0.1:8000/a%20b"
    away = client.get(f"http://127.0.0.1:8000//evil.example/?token={guard.token}").headers["location"]
    assert away.startswith("http://127.0.0.1:8000/")


def test_without_the_token_there_is_nothing() -> None:
    guard, client = guarded()
    for path in ("/", "/fail", "/none", "/?token=", "/?token=x", f"/?token={guard.token[:-1]}", "/?token=ä"):
        answer = client.get(path)
        assert (answer.status_code, "a page" in answer.text) == (403, False)
    client.cookies.set("conrad_bench_8000", guard.token)  # the token is no session
    assert client.get("/").status_code == 403


def test_a_browsers_address_opens_once() -> None:
    guard, client = guarded()
    address = guard.address_once()
    assert guard.token not in address
    assert client.get(address).status_code == 303
    client.cookies.clear()
    assert client.get(address).status_code == 403


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {}, 200),
        ("GET", {"host": "localhost:8000"}, 200),
        ("GET", {"host": "evil.example:8000"}, 421),
        ("GET", {"host": "127.0.0.1"}, 421),
        ("GET", {"host": "127.0.0.1:8001"}, 421),
        ("GET", {"host": "127.0.0.1.evil.example:8000"}, 421),
        ("GET", {"sec-fetch-site": "same-origin"}, 200),
        ("GET", {"sec-fetch-site": "none"}, 200),
        ("GET", {"sec-fetch-site": "same-site"}, 403),
        ("GET", {"sec-fetch-site": "cross-site"}, 403),
        ("GET", {"origin": "http://127.0.0.1:9000"}, 403),
        ("GET", {"origin": "null"}, 403),
        ("POST", {}, 403),
        ("POST", {"origin": "https://evil.example"}, 403),
        ("POST", {"origin": "http://127.0.0.1:8000"}, 200),
    ],
)
def test_only_requests_from_here_pass(method: str, headers: dict[str, str], status: int) -> None:
    guard, client = guarded()
    client.get(guard.address())
    session = client.cookies["conrad_bench_8000"]
    answer = client.request(method, "/", headers={**headers, "cookie": f"conrad_bench_8000={session}"})
    assert answer.status_code == status
    assert ("a page" in answer.text) == (status == 200)
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "unsafe" not in HEADERS["content-security-policy"]


def test_an_error_is_told_by_its_kind() -> None:
    said: list[str] = []
    guard, client = guarded(said)
    client.get(guard.address())
    answer = client.get("/fail")
    assert answer.status_code == 500
    assert answer.headers["cache-control"] == "no-store"
    assert "Miller" not in answer.text + "".join(said)
    assert "ValueError in" in said[0]


# The command


def test_a_port_in_use_and_a_folder_without_a_run_are_said(run: Path, tmp_path: Path) -> None:
    with listening(0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port} cannot be had"):
            listening(port)
        done = conrad_bench("view", str(run), "--no-browser", "--port", str(port), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    done = conrad_bench("view", str(tmp_path), "--no-browser", cwd=tmp_path)
    assert done.returncode == 2
    assert "holds no run" in done.stderr


def test_a_damaged_file_of_texts_is_named(tmp_path: Path) -> None:
    run = made_up(tmp_path)
    path = next((run / "rollouts").glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StorageError, match=f"{path.name} is damaged"):
        make_viewer(run, Reporter(quiet=True))


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingExtra, match=r"conrad-bench\[view\]"):
        check_installed()


@pytest.fixture
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Any]]:
    """The address of a made-up run's server, and its process."""
    run = made_up(tmp_path, **getattr(request, "param", {}))
    command = [sys.executable, "-c", "from conrad_bench.cli import main; main()", "view", str(run), "--no-browser"]
    command += ["--plugin", str(tmp_path / "data" / "made.yaml")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


def test_the_server_answers_says_nothing_and_ends_with_ctrl_c(served: tuple[str, Any]) -> None:
    address, process = served
    parts = urlsplit(address)
    assert parts.hostname == "127.0.0.1"
    connection = http.client.HTTPConnection("127.0.0.1", parts.port, timeout=30)
    connection.request("GET", f"/?{parts.query}")
    answer = connection.getresponse()
    answer.read()
    cookie = answer.headers["set-cookie"].partition(";")[0]
    for path, status in (("/?example=Miller", 200), ("/?sort=Miller", 400), ("/Miller", 404), ("/pictures/0", 200)):
        connection.request("GET", path, headers={"Cookie": cookie})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status
        assert answer.headers["server"] is None
    process.send_signal(signal.SIGINT)
    connection.close()
    assert process.wait(timeout=30) == 0
    assert process.stdout.read() == "Ctrl-C ends the viewer\n"
    assert process.stderr.read() == "reading the data\nthe viewer has ended\n"


def chromium(address: str, profile: Path, *more: str) -> str:
    """Return what Chromium makes of an address."""
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", *more,
        "--virtual-time-budget=20000", "--dump-dom", address,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize(
    "served", [{"method": EVIL, "id": EVIL, "text": f"{EVIL} It is. Confidence: 3"}], indirect=True
)
def test_nothing_that_others_wrote_runs_in_a_browser(served: tuple[str, Any], tmp_path: Path) -> None:
    address, _ = served
    evil = tmp_path / "evil.html"
    evil.write_text(f'<title>still</title><p title="{EVIL}</p>')
    assert "<title>ran</title>" in chromium(evil.as_uri(), tmp_path / "p")  # the attack works where nobody minds
    page = chromium(address, tmp_path / "p")
    assert "<title>Claims · run</title>" in page
    assert len(listed(page)) >= 1
    path = listed(page)[0].partition("#")[0]
    page = chromium(f"{address.partition('/?')[0]}{path}&{urlsplit(address).query}", tmp_path / "p")
    assert "<mark" in page
    assert "token" not in page
    assert "<title>ran</title>" not in page
    assert "<title>" + html.escape(EVIL, quote=False) in page


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.skipif(AXE is None, reason="no axe-core: `npm install axe-core` at the root of the repository")
@pytest.mark.parametrize("scheme", ["0", "1"], ids=["dark", "light"])
@pytest.mark.parametrize("width", [500, 1400])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_screen(
    client: TestClient, tmp_path: Path, scheme: str, width: int
) -> None:
    """On the list, an example, and a page that says what is wrong: the server's own HTML and styles, in files."""
    assert AXE is not None
    (tmp_path / "page.css").write_text(client.get("/static/page.css").text)
    probe = """
    ;addEventListener("load", async () => {
      const found = await axe.run();
      const wrong = found.violations.map((each) => `${each.id} ${each.nodes[0].html}`);
      const wide = document.documentElement.scrollWidth > innerWidth;
      const dark = matchMedia("(prefers-color-scheme: dark)").matches;
      document.body.dataset.seen = [wide, dark, ...wrong].join("|");
    });"""
    (tmp_path / "axe.js").write_text(AXE.read_text(encoding="utf-8") + probe)
    first = listed(client.get("/").text)[0]
    for path in ("/", first, "/none"):
        page = client.get(path).text.replace("/static/", "").replace("</head>", '<script src="axe.js"></script></head>')
        (tmp_path / "page.html").write_text(page)
        more = (f"--window-size={width},1200", f"--blink-settings=preferredColorScheme={scheme}")
        seen = re.search(r'data-seen="([^"]*)"', chromium((tmp_path / "page.html").as_uri(), tmp_path / "p", *more))
        assert seen is not None
        assert seen[1] == f"false|{'true' if scheme == '0' else 'false'}"
