"""Correctness of predictions that come as texts: the scorers of tasks on another program's responses and references."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, get_args

from conrad_bench.contracts import check_scores
from conrad_bench.errors import ConfigError, DataError
from conrad_bench.records import JUDGE
from conrad_bench.rollouts.model import Model
from conrad_bench.rollouts.store import RolloutStore
from conrad_bench.tasks.scorers.panel import Panel
from conrad_bench.types import Claim, Example, Granularity, Score

if TYPE_CHECKING:
    import pandas as pd

    from conrad_bench.progress import Reporter
    from conrad_bench.registry import Registry

TEXTS = ("response", "reference", "question")
"""Columns of texts: what was answered, what it is judged against, and the question where there was one."""


def with_correctness(
    frame: pd.DataFrame,
    name: str,
    options: Mapping[str, Mapping[str, Any]],
    registry: Registry,
    reporter: Reporter,
    out: Path | None = None,
    granularity: Granularity | None = None,
) -> pd.DataFrame:
    """Return predictions with the scorer's `correctness` in the place of their texts.

    What cannot be judged has the status `scorer_failed`. Arguments and errors are those of `text_scores`.
    """
    scores = text_scores(frame, name, options, registry, reporter, out, granularity)
    judged = frame.drop(columns=[column for column in TEXTS if column in frame])
    judged["correctness"] = [score.value for score in scores]
    for judge in sorted({name for score in scores for name, _ in score.by}):
        judged[f"{JUDGE}{judge}"] = [dict(score.by).get(judge) for score in scores]
    judged["status"] = judged.get("status", "ok")
    judged.loc[judged["correctness"].isna() & (judged["status"] == "ok"), "status"] = "scorer_failed"
    return judged


def text_scores(
    frame: pd.DataFrame,
    name: str,
    options: Mapping[str, Mapping[str, Any]],
    registry: Registry,
    reporter: Reporter,
    out: Path | None = None,
    granularity: Granularity | None = None,
) -> list[Score]:
    """Return the scorer's score of each row's `response` against its `reference`.

    A scorer that asks a model gets it; its answers are kept in `out`, so that the same command goes on. `granularity`
    is what a row is (report, sentence, answer): the first that the scorer judges unless given. Raises DataError for a
    table without the texts, ConfigError for a scorer or granularity that there is not.
    """
    cls = registry.get("scorers", name)
    if issubclass(cls, Panel) and cls.named():
        more = options, registry, reporter, out, granularity
        return cls().mean({each: text_scores(frame, each, *more) for each in cls.named()})
    scorer = registry.create("scorers", name, dict(options.get(name, {})))
    for column in TEXTS[:2]:
        if column not in frame:
            raise DataError(f"--scorer {name} needs the columns response and reference; there is no column {column!r}")
    chosen = granularity or next(each for each in get_args(Granularity) if each in scorer.granularities)
    if chosen not in scorer.granularities:
        raise ConfigError(f"scorer {name!r} judges {', '.join(sorted(scorer.granularities))}, not {chosen}s")
    texts = {column: frame[column] if column in frame else [""] * len(frame) for column in TEXTS}
    pairs = []
    for i, row in enumerate(zip(*texts.values(), strict=True)):
        said, reference, question = map(_text, row)
        pairs.append((Example(f"{i:07d}", "", "test", (), question, reference), Claim(said, (0, len(said)))))
    scorer.check([example for example, _ in pairs])
    with ExitStack() as stack:
        model = None
        if (wanted := scorer.judge()) is not None:
            engine = registry.create("engines", *wanted)
            stack.callback(engine.close)
            folder = Path(stack.enter_context(TemporaryDirectory())) if out is None else out
            store = stack.enter_context(RolloutStore(folder / "rollouts"))
            model = Model(engine, store, reporter)
        return check_scores(scorer, pairs, scorer.score(pairs, chosen, model))


def _text(value: object) -> str:
    return "" if value is None or value != value else str(value)
