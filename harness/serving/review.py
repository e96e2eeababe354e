"""The pages to review a run's reports: one a page, each entry on the disk before the page says that it is saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from conrad_bench.reviews.certified import words
from conrad_bench.reviews.fold import ACTIONS, JUDGEMENTS, MOST_LETTERS, Review, WrongEntryError, checked
from conrad_bench.reviews.workload import workload
from conrad_bench.serving.pages import Pages
from conrad_bench.serving.security import Session, form_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from conrad_bench.leaderboards.thresholds import Advice
    from conrad_bench.reviews.store import Store
    from conrad_bench.serving.reports import Order, Reports
    from conrad_bench.serving.sources import Source
    from conrad_bench.serving.viewer import Viewer

AHEAD = "x-ahead"
"""Header of the page's script that asks for the next report before it is shown: not yet opened."""
ROWS = 100
"""Reports on a page of the list."""
LIKERT = {1: "reject", 2: "rather reject", 3: "undecided", 4: "rather accept", 5: "accept"}


@dataclass(frozen=True)
class Setting:
    """How a review is held."""

    raters: tuple[str, ...]
    order: Order
    blind: bool
    """Whether confidences, methods and references stay unsaid."""
    target: float | None = None
    """For which mean correctness a threshold is certified, if for any."""


class ReviewPages:
    """The review of one run, or of reports for new pictures."""

    def __init__(
        self,
        setting: Setting,
        store: Store,
        reports: Reports,
        viewer: Viewer,
        sources: Mapping[str, Source],
        pages: Pages,
        advice: Mapping[tuple[str, str], Advice],
    ) -> None:
        """`advice` are certified thresholds by task and method.

        Raises ConfigError for a name of a rater that is none, StorageError where the log cannot be written."""
        self._setting, self._store, self._reports = setting, store, reports
        self._viewer, self._sources, self._pages, self._advice = viewer, sources, pages, advice
        self._raters = [store.rater(name) for name in setting.raters]
        self._order = lru_cache(None)(self._in_order)
        self._opened: dict[int, tuple[int, tuple[int, ...]]] = {}
        """By the log's number of a report: its number here and the sentences that are rated."""
        self._curves = {} if setting.blind else self._workloads()

    def routes(self) -> list[Route]:
        """Return the addresses of the review, those of the pictures among them."""
        return [
            Route("/", self.first),
            Route("/review", self.first),
            Route("/review/rater", self.rater, methods=["GET"]),
            Route("/review/rater", self.choose, methods=["POST"]),
            Route("/review/end", self.end, methods=["POST"]),
            Route("/review/list", self.listed),
            Route("/review/{number:int}", self.report, methods=["GET"]),
            Route("/review/{number:int}", self.enter, methods=["POST"]),
            *(route for route in self._viewer.routes() if route.path.startswith("/pictures/")),
        ]

    def first(self, request: Request) -> Response:
        """Lead to the first report that is not complete."""
        rater = self._rater(request)
        if rater is None:
            return RedirectResponse("/review/rater", 303)
        number = self._progress(rater)["open"]
        return RedirectResponse("/review/list" if number is None else f"/review/{number}", 303)

    def rater(self, request: Request) -> Response:
        """Answer with the page on which a rater says who it is."""
        return self._page(request, "review_rater.html", names=self._setting.raters, chosen=self._rater(request))

    async def choose(self, request: Request) -> Response:
        """Take the rater of this session."""
        fields = await form_of(request)
        place = fields.get("rater", "")
        if not (place.isascii() and place.isdigit() and len(place) < 4 and int(place) < len(self._raters)):
            raise HTTPException(400, "There is no such rater.")
        _session(request).known = {"rater": self._raters[int(place)]}
        return RedirectResponse("/review", 303)

    async def end(self, request: Request) -> Response:
        """End the session of this browser."""
        await form_of(request)
        _session(request).ended = True
        return self._pages.page("review_ended.html")

    def listed(self, request: Request) -> Response:
        """Answer with a page of the list of reports, in the rater's order."""
        rater = self._rater(request)
        if rater is None:
            return RedirectResponse("/review/rater", 303)
        page = request.query_params.get("page", "1")
        order = self._order(rater)
        last = -(-len(order) // ROWS)
        if not (page.isascii() and page.isdigit() and len(page) < 9 and 1 <= int(page) <= last):
            raise HTTPException(404, "There is no such page.")
        start = (int(page) - 1) * ROWS
        states = self._states(rater)
        rows = [
            {
                "place": place,
                "number": number,
                "study": self._reports.study(number)[1],
                "confidence": self._reports.all[number].confidence,
                "state": states.get(number, ""),
            }
            for place, number in enumerate(order[start : start + ROWS], start=start + 1)
        ]
        return self._page(request, "review_list.html", rows=rows, page=int(page), last=last, **self._progress(rater))

    def report(self, request: Request) -> Response:
        """Answer with the page of a report, and write down that it was opened, unless it is fetched ahead of that."""
        rater = self._rater(request)
        if rater is None:
            return RedirectResponse("/review/rater", 303)
        number = self._number(request)
        written = self._written(number)
        session = _session(request)
        if AHEAD not in request.headers:
            self._open(session, rater, written)
        elif not self._may_fetch(session, rater, number):
            return Response(status_code=204)
        task, id = self._reports.study(number)
        source = self._sources[task]
        example = source.examples.get(id)
        sentences = self._reports.sentences(number)
        report = self._reports.all[number]
        order = self._order(rater)
        place = order.index(number)
        by_doubt = sorted(sentences, key=lambda s: (2.0 if s.confidence is None else s.confidence, s.number))
        near = {name: order[at] for name, at in (("previous", place - 1), ("next", place + 1)) if 0 <= at < len(order)}
        blind = self._setting.blind
        unit = "reports" if self._reports.of_report(number) else "sentences"
        response = self._page(
            request,
            "review.html",
            number=number,
            id=id,
            problem=_missing(source, id, blind),
            notes=[] if blind else source.notes.get(id, []),
            indication=None if example is None else example.context,
            reference=None if example is None or blind else example.reference,
            pictures=self._viewer.numbers(example),
            priors=self._viewer.priors(example),
            places={sentence.number: n for n, sentence in enumerate(sentences, start=1)},
            sentences=sentences,
            listed=sentences if blind else by_doubt,
            method=None if blind else report.method,
            confidence=None if blind or not self._reports.of_report(number) else report.confidence,
            one_confidence=self._reports.of_report(number),
            curve=self._curves.get((task, report.method), []),
            unit=unit,
            certified=words(self._advice.get((task, report.method)), unit),
            review=self._store.review(rater, written),
            place=place + 1,
            previous=near.get("previous"),
            next=near.get("next"),
            **self._progress(rater, number),
        )
        coming = [*near.values()][::-1]
        response.background = BackgroundTask(self._viewer.films.prepare, [n for c in coming for n in self._pictures(c)])
        return response

    async def enter(self, request: Request) -> Response:
        """Take an entry; the answer says that it is on the disk."""
        fields = await form_of(request)
        rater = self._rater(request)
        if rater is None:
            raise HTTPException(403, "Say first who you are.")
        return await run_in_threadpool(self._enter, request, rater, fields)

    def _enter(self, request: Request, rater: int, fields: Mapping[str, str]) -> Response:
        number = self._number(request)
        written = self._written(number)
        sentences = [sentence.number for sentence in self._reports.sentences(number)]
        if "opened" in fields:
            self._open(_session(request), rater, written)
            return JSONResponse(self._state(rater, number, self._store.review(rater, written)))
        if "undo" in fields:
            event = self._store.undo(rater, written)
        else:
            try:
                what, sentence, value = _entry(fields)
                value = checked(what, sentence, value, sentences)
            except WrongEntryError as error:
                raise HTTPException(400, f"Not saved: {error}.") from None
            event = self._store.add(rater, written, what, sentence, value)
        if "application/json" in request.headers.get("accept", ""):
            return JSONResponse(self._state(rater, number, self._store.review(rater, written)))
        at = fields.get("sentence", "") if event is None or event.sentence is None else str(event.sentence)
        anchor = f"s{at}" if at.isascii() and at.isdigit() else "whole"
        return RedirectResponse(f"/review/{number}#{anchor}", 303)

    def _open(self, session: Session, rater: int, written: int) -> None:
        """Write down that a report was opened, unless a form without scripts came back to the same page."""
        if session.known.get("report") != written:
            self._store.add(rater, written, "opened")
            session.known["report"] = written

    def _may_fetch(self, session: Session, rater: int, number: int) -> bool:
        """Tell whether a report is next to that which the session has open: no other is sent without being opened."""
        here = self._opened.get(session.known.get("report", 0))
        order = self._order(rater)
        return here is not None and order.index(number) == order.index(here[0]) + 1

    def _state(self, rater: int, number: int, review: Review) -> dict[str, Any]:
        """Return what a page's script shows behind an entry."""
        return {
            "ratings": review.ratings,
            "decisions": review.decisions,
            "judgement": review.judgement,
            "comment": review.comment,
            "undoable": bool(review.done),
            **self._progress(rater, number),
        }

    def _page(self, request: Request, template: str, **values: Any) -> Response:
        return self._pages.page(
            template,
            csrf=_session(request).csrf,
            blind=self._setting.blind,
            order=self._setting.order,
            who=self._name(self._rater(request)),
            several=len(self._raters) > 1,
            likert=LIKERT,
            judgements=JUDGEMENTS,
            most_letters=MOST_LETTERS,
            **values,
        )

    def _rater(self, request: Request) -> int | None:
        chosen = _session(request).known.get("rater")
        return self._raters[0] if chosen is None and len(self._raters) == 1 else chosen

    def _name(self, rater: int | None) -> str | None:
        return None if rater is None else self._setting.raters[self._raters.index(rater)]

    def _in_order(self, rater: int) -> Sequence[int]:
        return self._reports.in_order(self._setting.order, self._setting.raters[self._raters.index(rater)])

    def _number(self, request: Request) -> int:
        number = int(request.path_params["number"])
        if not 0 <= number < len(self._reports.all):
            raise HTTPException(404, "There is no such report.")
        return number

    def _written(self, number: int) -> int:
        """Return the log's number of a report."""
        task, id = self._reports.study(number)
        sentences = {sentence.number: sentence.text for sentence in self._reports.sentences(number)}
        written = self._store.report(task, id, self._reports.all[number].response, sentences)
        self._opened[written] = (number, tuple(sentences))
        return written

    def _pictures(self, number: int) -> Sequence[int]:
        task, id = self._reports.study(number)
        example = self._sources[task].examples.get(id)
        return [*self._viewer.numbers(example), *self._viewer.priors(example)]

    def _states(self, rater: int) -> dict[int, str]:
        """Return "complete" or "begun" for each report of which a rater has said something."""
        reviews = {written: review for (who, written), review in self._store.reviews().items() if who == rater}
        if not self._opened.keys() >= reviews.keys():
            for written, report in self._store.reports().items():
                if report.response in self._reports.of_response:
                    here = self._reports.of_response[report.response]
                    self._opened.setdefault(written, (here, tuple(report.sentences)))
        found = {}
        for written, review in reviews.items():
            if written in self._opened:
                number, sentences = self._opened[written]
                if review.complete(sentences):
                    found[number] = "complete"
                elif review.done:
                    found.setdefault(number, "begun")
        return found

    def _progress(self, rater: int, behind: int | None = None) -> dict[str, int | None]:
        """Return how many reports are complete, of how many, and the first `open` one behind a report (or of all)."""
        order, states = self._order(rater), self._states(rater)
        at = 0 if behind is None else order.index(behind) + 1
        return {
            "complete": sum(state == "complete" for state in states.values()),
            "reports": len(order),
            "open": next((n for n in [*order[at:], *order[:at]] if states.get(n) != "complete"), None),
        }

    def _workloads(self) -> dict[tuple[str, str], list[dict[str, Any]]]:
        """Return what reading below each threshold costs and catches, by task and method, with the threshold's name."""
        found = {}
        for (task, method), part in self._reports.frame.groupby(["task", "method"]):
            advice = self._advice.get((str(task), str(method)))
            mark = None if advice is None else advice.certified.threshold
            points = workload(part["confidence"].to_numpy(float), part["correctness"].to_numpy(float), mark)
            found[str(task), str(method)] = [
                asdict(point) | {"name": _named(point.threshold), "certified": point.threshold == mark}
                for point in points
            ]
        return found


def _missing(source: Source, id: str, blind: bool) -> str:
    """Return what of a study cannot be shown, "" where all can."""
    if source.problem:
        said = f"Without pictures and indication. {source.problem}"
        return "Pictures and indication are not on this machine." if blind else said
    if lost := source.lost.get(id):
        return f"Pictures that are not where they were, or have changed, and are not shown: {lost}."
    return ""


def _named(threshold: float) -> str:
    if threshold > 1:
        return "all"
    return f"{threshold:.1f}" if abs(10 * threshold - round(10 * threshold)) < 1e-6 else f"{threshold:.3f}"


def _session(request: Request) -> Session:
    session: Session = request.state.session
    return session


def _entry(fields: Mapping[str, str]) -> tuple[str, int | None, Any]:
    """Return what a form sets. Raises WrongEntryError."""
    place = fields.get("sentence")
    sentence = None if place is None else int(place) if place.isascii() and place.isdigit() and len(place) < 7 else -1
    if "rating" in fields:
        rating = fields["rating"]
        return "rating", sentence, int(rating) if rating in "12345" and len(rating) == 1 else None
    if (action := fields.get("action")) in ACTIONS:
        return "decision", sentence, {"action": action, "text": fields.get("text", "")}
    for what in ("judgement", "comment"):
        if what in fields:
            return what, sentence, fields[what]
    raise WrongEntryError("there is no such entry")
