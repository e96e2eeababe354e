"""One leaderboard of several runs: `conrad-bench leaderboard`.

Everything is computed from the records anew, so that methods of different runs on the same examples are compared under
the same resampling weights. Rows keep the method's name where it belongs to one run, or where all runs that have it
have the same records for it. Otherwise all rows of the task are named "method [run]", after the run's folder, and each
is compared with the baseline of its own run. Runs that differ in the seed alone are the training seeds of one row.
Where there are several models, each task has a section for each of them (`board.models`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conrad_bench.errors import ConfigError, DataError
from conrad_bench.leaderboards.board.build import available, build
from conrad_bench.leaderboards.board.context import BoardContext
from conrad_bench.leaderboards.board.counterfactuals import counterfactuals
from conrad_bench.leaderboards.board.models import section
from conrad_bench.leaderboards.bundles.finished import Finished, Records, load_run
from conrad_bench.leaderboards.metrics.base import Metric
from conrad_bench.leaderboards.metrics.catalogue import in_order
from conrad_bench.leaderboards.pages.outputs import write_files
from conrad_bench.records import SEED, reserved, training_seed
from conrad_bench.registry import Registry, unknown
from conrad_bench.seeds import seed_variant

if TYPE_CHECKING:
    import pandas as pd


_OF_TASKS = ("scorers", "quality", "fitted_by", "granularities", "left_out")
"""What a context says of each task."""


def leaderboard(
    folders: Sequence[Path],
    out: Path | None = None,
    baseline: str | None = None,
    by: str | None = None,
    mixed: bool = False,
    metrics: Sequence[str] | None = None,
) -> tuple[dict[str, Any], Path]:
    """Write the leaderboard of some runs into `out`; return the content of leaderboard.json, and the folder.

    Without `out`, the leaderboard of a single run is written into its own folder. `by` adds the rows of subgroups,
    `metrics` names those that the board has; without it, the runs' own and those of this version. Raises ConfigError
    for a baseline, column or metric that there is not, DataError for runs that do not belong together (unless `mixed`).
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError("a run is named twice; name each once")
    if out is None and (len(folders) > 1 or (folders[0] / "bundle.json").is_file()):
        raise ConfigError("name a folder for this leaderboard with --out")
    if out is None and metrics is not None:
        raise ConfigError("--metrics: name a folder with --out; a run's own leaderboard has the metrics of its context")
    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; name a folder")
    runs = [load_run(folder) for folder in folders]
    context, records = merge(runs, mixed)
    context = by_this_version(context)
    if metrics is not None:
        context = context.model_copy(update={"metrics": _chosen(metrics, context.metrics)})
    if baseline is not None:
        names = sorted({method.partition(" [")[0] for _, method in records})
        if baseline not in names:
            raise ConfigError(f"--baseline: {unknown('method', baseline, names)}")
        context = context.model_copy(update={"baseline": baseline})
    if by is not None:
        columns = sorted({str(c) for frame in records.values() for c in frame.columns if not reserved(str(c))})
        if by not in columns:
            raise ConfigError(f"--by: {unknown('column', by, columns)}")
    board = build(records, context)
    if by is not None:
        from conrad_bench.leaderboards.board.subgroups import subgroups

        board |= subgroups(records, context, by)
    if len(runs) == 1:
        board |= counterfactuals(records, runs[0].counterfactuals, context)
    folder = out or folders[0]
    write_files(folder, board)
    return board, folder


def _chosen(names: Sequence[str], known: Sequence[Metric]) -> tuple[Metric, ...]:
    """Return metrics by name, with their options of the runs where these have them. Raises ConfigError."""
    of = {metric.name: metric for metric in known}
    registry = Registry()
    return in_order([of[name] if name in of else registry.create("metrics", name, {}) for name in names])


def by_this_version(context: BoardContext) -> BoardContext:
    """Return the context of a leaderboard that this version computes from records that another may have made.

    Metrics that the other did not have yet are added.
    """
    from conrad_bench.provenance import git_commit
    from conrad_bench.version import __version__

    metrics = in_order({metric.name: metric for metric in (*available(), *context.metrics)}.values())
    return context.model_copy(update={"version": __version__, "commit": git_commit(), "metrics": metrics})


def merge(runs: Sequence[Finished], mixed: bool = False) -> tuple[BoardContext, Records]:
    """Return the context and the records of one leaderboard of all runs.

    The bootstrap's settings are those of the first run. Raises DataError, naming the runs, for tasks with other data or
    scorers in one run than in another, other formats of leaderboard.json, or phantom beside real data; `mixed` allows
    all of these but the scorers.
    """
    first = runs[0].context
    if len(runs) == 1:
        return first, runs[0].records
    problems = [*_scorer_problems(runs), *_salt_problems(runs)]
    if not mixed and not problems and (found := _data_problems(runs, {run.folder: str(run.folder) for run in runs})):
        problems += [*found, "--mixed puts them together all the same"]
    if problems:
        raise DataError("these runs do not belong on one leaderboard:\n" + "\n".join(f"  - {p}" for p in problems))
    names = dict(zip((run.folder for run in runs), run_names([run.folder for run in runs]), strict=True))
    if differ_in_seed(runs):
        return of_seeds(runs, [names[run.folder] for run in runs])
    models = _by_model(runs)
    if len(models) > 1:
        return _of_models(models, names, mixed)
    records: Records = {}
    for task in sorted({task for run in runs for task, _ in run.records}):
        having = [run for run in runs if any(of == task for of, _ in run.records)]
        other_data = len({run.fingerprints.get(task) for run in having}) > 1
        records |= _merged_task(task, having, names, other_data)
    seeds = {
        name: (f"{run.context.seeds[method][0]}{name[len(method) :]}", run.context.seeds[method][1])
        for run in runs
        for method in run.context.seeds
        for _, name in records
        if name in (method, f"{method} [{names[run.folder]}]")
    }
    return _together(runs, names).model_copy(update={"seeds": seeds}), records


def _together(runs: Sequence[Finished], names: Mapping[Path, str]) -> BoardContext:
    """Return what a board of several runs says beside their seeds; its settings are those of the first."""
    return runs[0].context.model_copy(
        update={
            "random": sorted({method for run in runs for method in run.context.random}),
            "data": ", ".join(dict.fromkeys(run.context.data for run in runs)),
            "phantom": any(run.context.phantom for run in runs),
            "caveats": _data_problems(runs, names),
            "notes": [f"{names[run.folder]}: {note}" for run in runs for note in run.context.notes],
            **{field: _union([getattr(run.context, field) for run in runs]) for field in _OF_TASKS},
            **{
                field: _lines({names[run.folder]: getattr(run.context, field) for run in runs})
                for field in ("methods", "variants")
            },
            "runs": _about(runs, names),
        }
    )


def _by_model(runs: Sequence[Finished]) -> dict[str, list[Finished]]:
    """Return the runs of each model, by a name that tells it from the others.

    Models of one name are told apart by what their manifests say; an unfinished run has none, and goes with the first.
    """
    groups: dict[str, dict[tuple[str, ...], list[Finished]]] = {}
    for run in sorted(runs, key=lambda run: run.manifest is None):
        of = groups.setdefault(run.context.model, {})
        identity = next(iter(of), ()) if run.manifest is None else _identity(run)
        of.setdefault(identity, []).append(run)
    named: dict[str, list[Finished]] = {}
    for label, of in groups.items():
        for identity, found in of.items():
            apart = ", ".join(part.removeprefix("sha256:")[:12] for part in identity if part)
            named[label if len(of) == 1 else f"{label}, {apart or 'unknown'}"] = found
    return named


def _identity(run: Finished) -> tuple[str, ...]:
    """Return what tells a model from one of the same name."""
    model = (run.manifest or {}).get("model", {})
    return tuple(str(model.get(key) or "") for key in ("model", "revision", "quantization"))


def _of_models(
    models: Mapping[str, Sequence[Finished]], names: Mapping[Path, str], mixed: bool
) -> tuple[BoardContext, Records]:
    """Return the context and the records of a board on which each task stands once a model."""
    records: Records = {}
    found: dict[str, Any] = {field: {} for field in (*_OF_TASKS, "models", "seeds", "variants")}
    for model, runs in models.items():
        context, of_model = merge(runs, mixed)
        sections = {task: section(task, model) for task in context.scorers}
        for (task, method), frame in of_model.items():
            records[sections[task], method] = frame
        found["models"] |= {sections[task]: (task, model) for task, _ in of_model}
        found["seeds"] |= context.seeds
        for field in (*_OF_TASKS, "variants"):
            said = getattr(context, field)
            found[field] |= {sections[task]: said[task] for task in sections if task in said}
    context = _together([run for runs in models.values() for run in runs], names)
    found["variants"] = {**context.variants, **found["variants"]}
    return context.model_copy(update={**found, "model": ", ".join(models)}), records


def differ_in_seed(runs: Sequence[Finished]) -> bool:
    """Tell whether runs are one run with several training seeds: the same but for the seed, and all finished."""

    def said(run: Finished) -> dict[str, Any]:
        about = run.context.model_dump(
            exclude={"seed", "version", "commit", "runs", "caveats", "replicates", "interval"}
        )
        methods = run.manifest.get("methods", {}) if run.manifest else {}
        return {
            "context": about,
            "data": run.fingerprints,
            "model": _identity(run),
            "records": sorted(run.records),
            "methods": {name: _without_seed(options) for name, options in methods.items()},
        }

    first = said(runs[0])
    if any(run.manifest is None or run.context.seeds or said(run) != first for run in runs):
        return False
    return all(
        _same([run.records[key] for run in runs]) or len({_seed(run, key) for run in runs}) == len(runs)
        for key in runs[0].records
    )


def _seed(run: Finished, key: tuple[str, str]) -> int:
    """Return the training seed of a run's records; the run's where they do not say."""
    said = training_seed(run.records[key])
    return run.context.seed if said is None else said


def _without_seed(options: Any) -> Any:
    """Return a method's options without its seed, nor that of a method within it."""
    if not isinstance(options, dict):
        return options
    return {key: _without_seed(value) for key, value in options.items() if key != "seed"}


def of_seeds(runs: Sequence[Finished], names: Sequence[str]) -> tuple[BoardContext, Records]:
    """Return the context and the records of one run with the seeds of all, as `run --seeds` has them.

    What all have alike is there once. `names` are those that the runs go by.
    """
    records: Records = {}
    seeds: dict[str, tuple[str, int]] = {}
    for (task, method), frame in runs[0].records.items():
        frames = [run.records[task, method] for run in runs]
        if _same(frames):
            records[task, method] = frame
            continue
        for run, each in zip(runs, frames, strict=True):
            seed = _seed(run, (task, method))
            name = seed_variant(method, seed)
            records[task, name], seeds[name] = each.assign(method=name), (method, seed)
    about = _about(runs, dict(zip((run.folder for run in runs), names, strict=True)))
    return runs[0].context.model_copy(update={"seeds": seeds, "runs": about}), records


def _about(runs: Sequence[Finished], names: Mapping[Path, str]) -> list[dict[str, Any]]:
    """Return what a leaderboard says about the runs that it was made of."""
    return [
        {
            "name": names[run.folder],
            "model": run.context.model,
            "version": run.context.version,
            "commit": run.context.commit,
            "finished": run.manifest is not None,
        }
        for run in runs
    ]


def run_names(folders: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the folders' paths that differ from each other, "/" written as "_"."""
    paths = [folder.resolve().parts[1:] for folder in folders]
    for depth in range(1, 1 + max(map(len, paths))):
        names = ["_".join(path[-depth:]) for path in paths]
        if len(set(names)) == len(names) and all(names):
            return names
    return [f"run{number}" for number in range(1, 1 + len(folders))]


def _merged_task(task: str, runs: Sequence[Finished], names: Mapping[Path, str], label: bool) -> Records:
    """Return a task's records from all runs under the names of its rows; `label`: always with the run's name."""
    found: dict[str, list[tuple[str, pd.DataFrame]]] = {}
    for run in runs:
        for (of, method), frame in run.records.items():
            if of == task:
                found.setdefault(method, []).append((names[run.folder], frame))
    shared = {method: _same([frame for _, frame in frames]) for method, frames in found.items()}
    labelled = label or not all(shared.values())
    records: Records = {}
    for method, frames in found.items():
        # A baseline that all runs share, record for record, is one row.
        if not labelled or (not label and shared[method] and len(frames) == len(runs)):
            records[task, method] = frames[0][1]
        else:
            records |= {(task, f"{method} [{name}]"): frame for name, frame in frames}
    return records


def _same(frames: Sequence[pd.DataFrame]) -> bool:
    """Tell whether records are the same; the seed aside, and the rollout's key, which holds it."""
    sorted_frames = [
        frame.drop(columns=["response", SEED], errors="ignore").sort_values(["example", "claim"]).reset_index(drop=True)
        for frame in frames
    ]
    return all(frame.equals(sorted_frames[0]) for frame in sorted_frames[1:])


def _scorer_problems(runs: Sequence[Finished]) -> list[str]:
    problems = []
    for task in sorted({task for run in runs for task in run.context.scorers}):
        scorers = {
            (run.context.scorers[task][0], run.context.quality.get(task, ("none", ""))[0])
            for run in runs
            if task in run.context.scorers
        }
        having = [run.context for run in runs if task in run.context.scorers]
        fitted = {context.fitted_by.get(task, context.scorers[task])[0] for context in having}
        if len(scorers) == 1 and len(fitted) > 1:
            problems.append(f"task {task!r}: methods learned by different scorers ({', '.join(sorted(fitted))})")
        if len(scorers) > 1:
            said = " and ".join(sorted(f"{scorer} (quality: {quality})" for scorer, quality in scorers))
            problems.append(f"task {task!r} was judged by different scorers: {said}; their numbers do not compare")
    return problems


def _data_problems(runs: Sequence[Finished], names: Mapping[Path, str]) -> list[str]:
    """Return what differs between the runs, which go by these names."""
    problems = []
    formats = {run.format for run in runs}
    if len(formats) > 1:
        said = ", ".join(f"{names[run.folder]}: {run.format}" for run in runs)
        problems.append(f"their leaderboard.json have different formats ({said}); the older ones can be written anew")
    if len({run.context.phantom for run in runs}) > 1:
        problems.append("some are about phantom data, others about real data")
    if len({run.context.unit for run in runs}) > 1:
        problems.append("their intervals draw different units (bootstrap.unit: cluster and example)")
    for task in sorted({task for run in runs for task, _ in run.records}):
        having = [run for run in runs if any(of == task for of, _ in run.records)]
        if len({run.fingerprints.get(task) for run in having}) > 1:
            said = ", ".join(f"{names[run.folder]}: {(run.fingerprints.get(task) or 'unknown')[:12]}" for run in having)
            problems.append(f"task {task!r} had different data (fingerprints {said})")
    return problems


def _salt_problems(runs: Sequence[Finished]) -> list[str]:
    """Return what no option puts together: the same data without an example in common."""
    problems = []
    for task in sorted({task for run in runs for task, _ in run.records}):
        having: dict[str, list[Finished]] = {}
        for run in runs:
            if run.fingerprints.get(task) and _ids(run, task):
                having.setdefault(run.fingerprints[task], []).append(run)
        for same in having.values():
            unlike = [(one, other) for one, other in combinations(same, 2) if not _ids(one, task) & _ids(other, task)]
            if unlike:
                said = " and ".join(str(run.folder) for run in unlike[0])
                problems.append(
                    f"task {task!r} had the same data in {said}, but they have no example in common: their ids were "
                    "hashed under different salts, and each patient would count several times. Make one bundle of the "
                    "run folders (`conrad-bench publish RUN RUN --out DIR`, for runs that differ in the seed alone), "
                    "or publish them anew with one publish.salt: copy that of the first run into the other folders"
                )
    return problems


def _ids(run: Finished, task: str) -> set[str]:
    """Return the names of a task's examples in a run."""
    return {name for (of, _), frame in run.records.items() if of == task for name in frame["example"]}


def _union(mappings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {key: value for mapping in reversed(mappings) for key, value in mapping.items()}


def _lines(runs: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return the lines about names in several runs; where runs differ, each run's own."""
    said: dict[str, dict[str, list[str]]] = {}
    for run, lines in runs.items():
        for name, text in lines.items():
            said.setdefault(name, {}).setdefault(text, []).append(run)
    return {
        name: next(iter(texts))
        if len(texts) == 1
        else "; ".join(f"in {', '.join(where)}: {text}" for text, where in texts.items())
        for name, texts in said.items()
    }
