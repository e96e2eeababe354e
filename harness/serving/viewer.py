"""The pages to browse a run: its claims as a list, and each example with every method's response side by side."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.background import BackgroundTask
from starlette.datastructures import URL
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from conrad_bench.errors import ConradBenchError
from conrad_bench.serving.films import Films, Size
from conrad_bench.serving.filters import NUMBERS, SORTS, Wanted, WrongAddressError, read_page, read_wanted
from conrad_bench.serving.index import Answer, Index
from conrad_bench.serving.marks import Judged, Piece, cut, find_format, pieces
from conrad_bench.serving.pages import Pages, link

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from conrad_bench.serving.sources import Source
    from conrad_bench.types import Example

ROWS = 50
"""Claims on a page of the list."""
_EXCERPT = 160
"""Letters of a claim in the list."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A method's response on the page of an example."""

    number: int
    """Of the method among the run's; part of the claims' anchors."""
    answer: Answer
    pieces: list[Piece]

    @property
    def placed(self) -> bool:
        """Whether the claims were found in the text."""
        return any(piece.claim is not None for piece in self.pieces)

    def text(self, place: int) -> str:
        """Return the text of the claim at a place of the answer, "" where it was not found."""
        return next((piece.text for piece in self.pieces if piece.claim == place), "")


class Viewer:
    """The viewer of one run."""

    def __init__(self, index: Index, sources: Mapping[str, Source], pages: Pages) -> None:
        self._index, self._sources, self._pages = index, sources, pages
        self._pictures: dict[str, int] = {}
        for task, id in index.items:
            example = sources[task].examples.get(id)
            for path in (*example.images, *example.priors) if example is not None else ():
                self._pictures.setdefault(path, len(self._pictures))
        self.films = Films(list(self._pictures))
        self._format = lru_cache(None)(self._find_format)

    def routes(self) -> list[Route]:
        """Return the addresses of the viewer."""
        return [
            Route("/", self.claims),
            Route("/example", self.example),
            Route("/pictures/{number:int}", self.picture),
            Route("/pictures/{number:int}/{size}", self.picture),
        ]

    def claims(self, request: Request) -> Response:
        """Answer with a page of the list."""
        wanted, page = self._wanted(request), _read(read_page, request.query_params)
        if "" in request.query_params.values():  # a form sends all its fields; an address to keep has those that count
            return RedirectResponse(str(URL(path="/", query=wanted.query())), 303)
        rows = self._index.find(wanted).rows
        last = max(1, -(-len(rows) // ROWS))
        page = min(page, last)
        frame = self._index.frame.iloc[rows[(page - 1) * ROWS : page * ROWS]]
        return self._pages.page(
            "claims.html",
            **self._form(wanted),
            rows=[self._row(row, wanted) for row in frame.to_dict("records")],
            left=len(rows),
            claims=len(self._index.frame),
            page=page,
            last=last,
            previous=link("/", wanted.query(page=page - 1)) if page > 1 else None,
            next=link("/", wanted.query(page=page + 1)) if page < last else None,
        )

    def example(self, request: Request) -> Response:
        """Answer with the page of an example."""
        task, id = (request.query_params.get(name, "") for name in ("of", "id"))
        item = self._index.numbers.get((task, id))
        if item is None:
            raise HTTPException(404, "This run has no such example.")
        wanted = self._wanted(request)
        items = self._index.find(wanted).items
        at = np.flatnonzero(items == item)
        place = int(at[0]) if len(at) else None
        beside = {} if place is None else {"previous": place - 1, "next": place + 1}
        neighbours = {name: int(items[i]) for name, i in beside.items() if 0 <= i < len(items)}
        source = self._sources[task]
        example = source.examples.get(id)
        response = self._pages.page(
            "example.html",
            task=task,
            id=id,
            cluster=self._index.cluster(item),
            attributes=self._index.attributes(item),
            source=source,
            example=example,
            answers_question=source.task is not None and source.task.granularity == "answer",
            prompt=None if example is None or source.task is None else _prompt(source, example),
            pictures=self.numbers(example),
            shown=[self.shown(item, answer) for answer in self._index.answers(item)],
            place=None if place is None else place + 1,
            number_of_examples=len(items),
            back=link("/", wanted.query()),
            filters=wanted.given,
            sort=SORTS[wanted.sort],
            previous=self._example_link(neighbours["previous"], wanted) if "previous" in neighbours else None,
            next=self._example_link(neighbours["next"], wanted) if "next" in neighbours else None,
        )
        coming = [n for neighbour in reversed(neighbours.values()) for n in self.numbers(self._example(neighbour))]
        response.background = BackgroundTask(self.films.prepare, coming)
        return response

    def picture(self, request: Request) -> Response:
        """Answer with a picture."""
        size: Size = "large" if "size" in request.path_params else "page"
        if request.path_params.get("size", "large") != "large":
            raise HTTPException(404, "There is no such picture.")
        try:
            picture = self.films.get(request.path_params["number"], size)
        except IndexError:
            raise HTTPException(404, "There is no such picture.") from None
        except ConradBenchError as error:
            raise HTTPException(404, str(error)) from None
        return Response(picture.data, media_type=picture.media_type)

    def _wanted(self, request: Request) -> Wanted:
        wanted: Wanted = _read(read_wanted, request.query_params, self._index.columns)
        return wanted

    def _form(self, wanted: Wanted) -> dict[str, Any]:
        return {
            "wanted": wanted,
            "choices": {name: values for name, values in self._index.choices.items() if len(values) > 1},
            "columns": self._index.columns,
            "numbers": NUMBERS,
            "sorts": SORTS,
            "several": len(self._index.choices["task"]) > 1,
            "problems": {task: source.problem for task, source in self._sources.items() if source.problem},
        }

    def _row(self, row: Mapping[Any, Any], wanted: Wanted) -> dict[str, Any]:
        item = int(row["item"])
        answer = next(each for each in self._index.answers(item) if each.method == row["method"])
        shown = self.shown(item, answer)
        place = next(k for k, claim in enumerate(answer.claims) if claim.claim == row["claim"])
        words = " ".join(shown.text(place).split())
        return {
            "address": self._example_link(item, wanted, f"c{shown.number}-{place}"),
            "example": row["example"],
            "task": row["task"],
            "method": row["method"],
            "text": words if len(words) <= _EXCERPT else f"{words[:_EXCERPT]} …",
            "place": place + 1,
            "of": len(answer.claims),
            "claim": answer.claims[place],
        }

    def shown(self, item: int, answer: Answer) -> Shown:
        """Return a response with its claims where they stand in the text."""
        task = self._index.items[item][0]
        source, text = self._sources[task], self._index.texts.get(answer.response, "")
        if answer.response in source.spans:
            found = cut(text, source.spans[answer.response])
        else:
            found = pieces(source.task, text, answer.claims, self._format(task, answer.method))
        return Shown(self._index.choices["method"].index(answer.method), answer, found)

    def _find_format(self, task: str, method: str) -> str | None:
        """Return how a method asked for confidences; nothing but its responses tells."""
        plugin, frame = self._sources[task].task, self._index.frame
        if plugin is None:
            return None
        chosen = frame[(frame["task"] == task) & (frame["method"] == method)].drop_duplicates("item").head(ROWS)
        known: list[tuple[str, tuple[Judged, ...]]] = []
        for item in chosen["item"]:
            answer = next(each for each in self._index.answers(int(item)) if each.method == method)
            if text := self._index.texts.get(answer.response, ""):
                known.append((text, answer.claims))
        return find_format(plugin, known)

    def _example(self, item: int) -> Example | None:
        task, id = self._index.items[item]
        return self._sources[task].examples.get(id)

    def _example_link(self, item: int, wanted: Wanted, at: str = "") -> Any:
        task, id = self._index.items[item]
        return link("/example", wanted.query(of=task, id=id), at)

    def numbers(self, example: Example | None) -> list[int]:
        """Return the numbers of an example's pictures."""
        return [] if example is None else [self._pictures[path] for path in example.images]

    def priors(self, example: Example | None) -> list[int]:
        """Return the numbers of the pictures of an example's earlier study."""
        return [] if example is None else [self._pictures[path] for path in example.priors]


def _prompt(source: Source, example: Example) -> str:
    """Return what the model was asked, without what asks for a confidence; "" where the task's plugin fails."""
    assert source.task is not None
    try:
        return "\n\n".join(message.text for message in source.task.prompt(example).messages)
    except Exception:  # a plugin's code; the page does without
        return ""


def _read(reader: Any, *arguments: Any) -> Any:
    """Read a part of an address; what cannot be read is a page that says so."""
    try:
        return reader(*arguments)
    except WrongAddressError as error:
        raise HTTPException(400, f"The address cannot be read: {error}.") from None
