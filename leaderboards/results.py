"""A leaderboard as an object of Python."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conrad_bench.errors import ConfigError
from conrad_bench.registry import unknown

if TYPE_CHECKING:
    import pandas as pd

    from conrad_bench.leaderboards.board.context import BoardContext
    from conrad_bench.leaderboards.predictions.columns import Predictions


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure as files; a notebook shows it."""

    files: dict[str, bytes] = field(repr=False)
    """".svg" and ".png"."""

    def _repr_svg_(self) -> str:
        return self.files[".svg"].decode()

    def write(self, path: str | Path) -> Path:
        """Write the figure in the form that the path's ending names, and return the path."""
        from conrad_bench.storage import write_bytes

        path = Path(path)
        if path.suffix not in self.files:
            raise ConfigError(f"{path}: figures are files that end in {' or '.join(self.files)}")
        write_bytes(path, self.files[path.suffix])
        return path


@dataclass(frozen=True, slots=True)
class Board:
    """A leaderboard: of a run, or of predictions. A notebook shows its tables."""

    content: dict[str, Any]
    """That of leaderboard.json (docs/formats.md)."""
    predictions: tuple[Predictions, BoardContext] | None = None
    """What it was made of, where that was not a run folder."""

    @property
    def tasks(self) -> list[str]:
        """The tasks' names."""
        return list(self.content["tasks"])

    def table(self, task: str | None = None) -> pd.DataFrame:
        """Return a row for each method, best Brier score first, with every number that leaderboard.csv has.

        A metric m has the columns m, m_low and m_high. Raises ConfigError for a task that is not on the board.
        """
        import pandas as pd

        from conrad_bench.leaderboards.pages.outputs import csv_text
        from conrad_bench.leaderboards.pages.wording import ranked

        rows = [row for name in self._tasks(task) for row in ranked(self.content, name)]
        text = csv_text({**self.content, "rows": rows, "subgroups": []})
        return pd.read_csv(io.StringIO(text), keep_default_na=True).set_index(["task", "method"])

    def comparisons(self, task: str | None = None, metric: str = "brier") -> pd.DataFrame:
        """Return the paired differences (a minus b) of a task's methods by a metric, with interval, p and Holm's p.

        Raises ConfigError for a task or metric that is not on the board.
        """
        import pandas as pd

        names = [each["name"] for each in self.content["metrics"]]
        if metric not in names:
            raise ConfigError(f"comparisons: {unknown('metric', metric, names)}")
        found = [
            {"task": name, **pair}
            for name in self._tasks(task)
            for pair in (self.content["tasks"][name].get("comparisons") or {"pairs": []})["pairs"]
            if pair["metric"] == metric
        ]
        columns = ["task", "metric", "a", "b", "n_units", "value", "low", "high", "se", "p", "p_holm"]
        return pd.DataFrame(found, columns=columns)

    def reliability_diagram(self, method: str, task: str | None = None) -> Picture:
        """Return the reliability diagram of a method that states confidences. Raises ConfigError for another."""
        from conrad_bench.leaderboards.pages.figures import reliability_diagram

        return Picture(reliability_diagram(self._row(method, task), self.content))

    def risk_coverage(self, method: str, task: str | None = None) -> pd.DataFrame:
        """Return the mean risk (1 - correctness) of the most confident claims by their share (`coverage`)."""
        import pandas as pd

        return pd.DataFrame(self._row(method, task)["risk_coverage"])

    def write(self, out: str | Path) -> Path:
        """Write the board as Markdown, HTML, csv, LaTeX, JSON and figures into a folder, and return the folder.

        That of predictions comes with their records, so that `conrad-bench leaderboard` and `verify` read the folder.
        Raises ConfigError for a folder that holds something else, StorageError where it cannot be written.
        """
        from conrad_bench.leaderboards.pages.outputs import write_files
        from conrad_bench.leaderboards.predictions.board import write_evaluation

        out = Path(out)
        if self.predictions is not None:
            write_evaluation(*self.predictions, self.content, out)
        else:
            write_files(out, self.content)
        return out

    def _repr_html_(self) -> str:
        from conrad_bench.leaderboards.pages.wording import column_title, columns, estimate_text, ranked
        from conrad_bench.text import html

        parts = [f"<h3>{html(self.content['title'])}</h3>"]
        parts += [f"<p>{html(note)}</p>" for note in self.content.get("notes", [])]
        for task in self.tasks:
            rows = list(ranked(self.content, task))
            names = columns(self.content, rows, headline=True)
            titles = ["method", *(column_title(self.content, task, name) for name in names), "n"]
            head = "".join(f"<th scope='col'>{html(title)}</th>" for title in titles)
            body = "".join(
                f"<tr><th scope='row'>{html(row['method'])}</th>"
                + "".join(f"<td>{html(estimate_text(row['metrics'].get(name)))}</td>" for name in names)
                + f"<td>{row['n']:,}</td></tr>"
                for row in rows
            )
            parts.append(
                f"<table><caption>{html(task)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            )
        return "\n".join(parts)

    def __repr__(self) -> str:
        """Return the title and the methods."""
        methods = sorted({row["method"] for row in self.content["rows"]})
        return f"<Board: {self.content['title']}; {', '.join(self.tasks)}; {', '.join(methods)}>"

    def _tasks(self, task: str | None) -> list[str]:
        if task is not None and task not in self.tasks:
            raise ConfigError(unknown("task", task, self.tasks))
        return self.tasks if task is None else [task]

    def _row(self, method: str, task: str | None) -> dict[str, Any]:
        names = self._tasks(task)
        if task is None and len(names) > 1:
            raise ConfigError(f"name the task: {', '.join(names)}")
        rows = {row["method"]: row for row in self.content["rows"] if row["task"] == names[0]}
        if method not in rows:
            raise ConfigError(unknown("method", method, list(rows)))
        if "reliability" not in rows[method]:
            raise ConfigError(f"method {method!r} states no confidences on {names[0]!r}")
        return dict(rows[method])
