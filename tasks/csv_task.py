"""A task without code: a YAML file that describes a csv beside it.

    title: Chest questions of our hospital      # what boards call the data
    granularity: answer                         # report, sentence or answer
    file: questions.csv
    scorer: vqa_match                           # optional: the usual one of the granularity
    instruction: Answer in one word.            # optional: behind the question or indication
    columns: {id: qid, reference: answer}       # optional: our names, your columns

Columns: `id`; `reference`; `question` or `indication` (may be left out); `images` (paths beside the csv, several with ;
between them); `patient` (whom the example is of: without it, examples with the same first image belong together);
`split` (train, validate, test; without it all are for tests); `prior_images` (pictures of an earlier study, shown to
those who review the reports and to no model). Any other column is one of subgroups.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from conrad_bench.errors import DataError, PluginError
from conrad_bench.reading.elicitation import INSTRUCTIONS
from conrad_bench.tasks.base import Loaded, Task
from conrad_bench.tasks.prompts import FINDINGS, SHORT_ANSWER
from conrad_bench.types import Example, Granularity, Message, Prompt, Split

SCORERS: dict[Granularity, str] = {"report": "green", "sentence": "precision_green", "answer": "vqa_match"}
OURS = ("id", "patient", "images", "question", "indication", "reference", "split", "prior_images")
_INDICATION = "Indication: "
_SPLITS: dict[str, Split] = {"train": "train", "validate": "validate", "validation": "validate", "test": "test"}


class Description(BaseModel):
    """What the YAML file says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    granularity: Granularity
    file: str
    name: str | None = None
    """The task's name; the file's without its ending unless given."""
    scorer: str | None = None
    quality: str | None = None
    instruction: str | None = None
    columns: dict[str, str] = {}


class CsvTask(Task):
    """Examples of a csv file, as a YAML file describes them."""

    described: ClassVar[Description]
    source_file: ClassVar[Path]

    def load(self, root: Path) -> Loaded:
        """Read the csv in `root`. Raises DataError naming file, line and column."""
        path = root / self.described.file
        return Loaded(examples=_examples(path, self.described), left_out=Counter())

    def indicated(self, indication: str) -> str:
        """Return the context of an example with this indication."""
        return _INDICATION + indication if indication else ""

    def prompt(self, example: Example, elicit: str | None = None) -> Prompt:
        """Return the images, the question or indication, and the instruction."""
        said = self.described.instruction or (SHORT_ANSWER if self.granularity == "answer" else FINDINGS)
        asked = "\n".join(part for part in (example.context, said) if part)
        text = asked + (INSTRUCTIONS[elicit] if elicit else "")
        return Prompt((Message("user", text),), images=example.images, elicit=elicit)

    def __reduce__(self) -> Any:
        """Pickle by the YAML file: the class is made of it."""
        return _again, (self.source_file, self.model_dump())


def csv_task(path: Path) -> type[CsvTask]:
    """Return the task that a YAML file describes. Raises PluginError naming the file and the key that is wrong."""
    return _made(path.absolute(), hashlib.sha256(path.read_bytes()).hexdigest()[:12])


@cache
def _made(path: Path, digest: str) -> type[CsvTask]:
    """Return one and the same class for a file as long as it stays as it is."""
    from conrad_bench.config_file import Places, read_file

    try:
        described = Description.model_validate(read_file(path, Places(path, {}, {})))
    except ValidationError as error:
        wrong = error.errors()[0]
        key = ".".join(map(str, wrong["loc"]))
        raise PluginError(
            f"task file {path}: {key}: {wrong['msg']}; keys are {', '.join(Description.model_fields)}"
        ) from error
    unknown = sorted(set(described.columns) - set(OURS))
    if unknown:
        raise PluginError(f"task file {path}: columns: {unknown[0]!r} is none of ours: {', '.join(OURS)}")
    name = described.name or path.stem
    made: type[CsvTask] = create_model(
        f"CsvTask_{digest}",  # the digest is what fingerprints know of its code
        __base__=CsvTask,
        __module__="conrad_bench_task_file",
        scorer=(str, described.scorer or SCORERS[described.granularity]),
        quality=(str | None, described.quality),
    )
    made.name, made.summary = name, f"{described.title}: {described.granularity}s of {described.file}"
    made.granularity, made.root_variable = described.granularity, f"{name.upper().replace('-', '_')}_ROOT"
    made.default_root, made.described, made.source_file = path.parent, described, path
    return made


def _again(path: Path, options: dict[str, Any]) -> CsvTask:
    return csv_task(path)(**options)


def read_rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header of a csv, and each row with its line. Raises DataError."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            rows = [(reader.line_num, row) for row in reader if row]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is no csv in UTF-8") from error
    return header, rows


def read_images(where: str, column: str, folder: Path, cell: str) -> tuple[str, ...]:
    """Return the pictures beside a csv that a cell names, with ; between them. Raises DataError for one not there."""
    images = tuple(str((folder / name.strip()).absolute()) for name in cell.split(";") if name.strip())
    for image in images:
        if not Path(image).is_file():
            raise DataError(f"{where}: column {column!r}: there is no file {image}")
    return images


def _examples(path: Path, described: Description) -> list[Example]:
    header, rows = read_rows(path)
    theirs = {ours: described.columns.get(ours, ours) for ours in OURS}
    for ours in (*described.columns, "id", "reference"):
        if theirs[ours] not in header:
            raise DataError(
                f"{path}: has no column {theirs[ours]!r} for `{ours}`; columns: {', '.join(header)}. Your name of it "
                f"stands in the YAML file: columns: {{{ours}: its name}}"
            )
    return [_example(f"{path}, line {line}", path.parent, header, row, theirs) for line, row in rows]


def _example(where: str, folder: Path, header: list[str], cells: list[str], theirs: dict[str, str]) -> Example:
    if len(cells) != len(header):
        raise DataError(f"{where}: {len(cells)} cells, the header has {len(header)} names")
    row = dict(zip(header, cells, strict=True))
    said = {ours: row.get(name, "").strip() for ours, name in theirs.items()}
    for ours in ("id", "reference"):
        if not said[ours]:
            raise DataError(f"{where}: column {theirs[ours]!r} is empty")
    split = _SPLITS.get(said["split"] or "test")
    if split is None:
        raise DataError(f"{where}: column {theirs['split']!r}: splits are train, validate and test")
    images = read_images(where, theirs["images"], folder, said["images"])
    priors = read_images(where, theirs["prior_images"], folder, said["prior_images"])
    others = {name: _value(value) for name, value in row.items() if name not in theirs.values() and value != ""}
    context = said["question"] or (_INDICATION + said["indication"] if said["indication"] else "")
    cluster = said["patient"] or (images[0] if images else said["id"])
    return Example(said["id"], cluster, split, images, context, said["reference"], others, priors=priors)


def _value(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text
