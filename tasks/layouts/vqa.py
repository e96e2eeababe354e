"""What the visual question answering tasks share: reading rows, splits that are disjoint by image, prompts and claims.

An image is in one split only, and it is the cluster of the bootstrap. Where the published splits share images, test
goes before validation, and validation before training: questions about an image of another split are left out and
counted. Images are told apart by their bytes, so that a copy under another name is the same image.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from conrad_bench.engines.opening import check_header, unreadable
from conrad_bench.errors import DataError
from conrad_bench.hub import quiet_hub
from conrad_bench.rollouts.digests import file_digest
from conrad_bench.storage import cache_folder, write_bytes
from conrad_bench.tasks.base import Loaded, Task
from conrad_bench.tasks.prompts import question_text
from conrad_bench.types import Example, Granularity, Message, Prompt, Split

ALTERNATIVES = "#"
"""In a reference, it separates answers each of which is right (the notation of VQA-Med 2019)."""

VALIDATION_SHARE = 5
"""One of so many training images validates, where a data set has no validation split of its own."""

_SPLITS: tuple[Split, ...] = ("test", "validate", "train")
_HUB_SPLITS: dict[str, Split] = {
    "train": "train",
    "validation": "validate",
    "validate": "validate",
    "val": "validate",
    "test": "test",
}
_NO_IMAGE = "unreadable"
"""Suffix of files that hold no image."""
_COLUMNS = {
    "question_type": ("question_type", "content_type", "category"),
    "organ": ("image_organ", "organ", "location"),
    "modality": ("modality",),
    "q_lang": ("q_lang",),
}


class Item(NamedTuple):
    """One question as it was published."""

    id: str
    image: str
    """Path of the image file; "" where the source has none."""
    cluster: str
    """Name of the image."""
    split: Split
    question: str
    answer: str
    attributes: dict[str, str | float]


class VqaTask(Task):
    """Questions about single images, one claim an answer."""

    granularity: ClassVar[Granularity] = "answer"

    scorer: str = "vqa_match"
    hub: str | None = None
    """Id of a data set on the Hugging Face hub (or a local folder that `datasets` reads) to take instead of the data
    root; None: the files under the data root, and no access to the network."""

    def hub_id(self) -> str | None:
        """Return the hub's data set that was asked for."""
        return self.hub

    def load(self, root: Path) -> Loaded:
        """Read every question below `root`, or those of the hub's data set where one is named.

        Counted in `left_out`: "no question", "no answer", "image file not found", and, where splits share images,
        "train question about a test image" and the like. Raises DataError naming the file or the row that is wrong, and
        for a root with none of its images.
        """
        return loaded(hub_items(hub_splits(self.hub), self.hub) if self.hub else self.items(root))

    def items(self, root: Path) -> list[Item]:
        """Return the questions of the files below `root`, in their order. Does not look for the images."""
        raise NotImplementedError

    def prompt(self, example: Example, elicit: str | None = None) -> Prompt:
        """Return the image, the question, and the instruction to answer briefly."""
        return Prompt((Message("user", question_text(example.context, elicit)),), images=example.images, elicit=elicit)


def read_rows(path: Path, expected: str) -> list[dict[str, Any]]:
    """Read a JSON file that holds a list of objects. Raises DataError naming the file."""
    try:
        rows = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path} not found\n{expected}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except json.JSONDecodeError as error:
        # The original error holds the text; it is not chained.
        raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg}); download the file again") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, byte {error.start + 1}: not UTF-8; download the file again") from None
    except (ValueError, RecursionError):  # a number or a nesting that no data set has
        raise DataError(f"{path}: not JSON that can be read; download the file again") from None
    return check_rows(rows, path)


def check_rows(rows: Any, path: Path) -> list[dict[str, Any]]:
    """Return `rows` if they are a list of objects. Raises DataError naming the file."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: should hold a list of objects, one a question; download the file again")
    return rows


def text(row: Mapping[str, Any], key: str, where: str) -> str:
    """Return a value of a row as one line of text, "" for a null. Raises DataError where it is missing or no text.

    Some answers are published as numbers, and some hold tabs.
    """
    if key not in row:
        raise DataError(f"{where}: no key {key}")
    value = row[key]
    if not isinstance(value, str | int | float | None):
        raise DataError(f"{where}, key {key}: should be text or a number")
    return "" if value is None else " ".join(str(value).split())


def attributes(row: Mapping[str, Any], answer: str, where: str) -> dict[str, str | float]:
    """Return a row's attributes: answer_type ("closed" or "open"), and those of `_COLUMNS` that it has.

    A row without answer_type is closed where its answer is yes or no. Raises DataError for another answer_type.
    """
    found: dict[str, str | float] = {"answer_type": "closed" if answer.lower() in ("yes", "no") else "open"}
    if "answer_type" in row:
        found["answer_type"] = text(row, "answer_type", where).lower()
        if found["answer_type"] not in ("closed", "open"):
            raise DataError(f"{where}, key answer_type: should be CLOSED or OPEN")
    for name, keys in _COLUMNS.items():
        value = next((text(row, key, where) for key in keys if key in row), "")
        if value:
            found[name] = value
    return found


def disjoint(items: Iterable[Item]) -> tuple[list[Item], Counter[str]]:
    """Return the items whose image belongs to their split, and how many were left out, by reason.

    An image that several splits share belongs to test, else to validate.
    """
    items = list(items)
    owner: dict[str, Split] = {}
    for split in reversed(_SPLITS):
        owner |= {item.cluster: split for item in items if item.split == split}
    left_out = Counter(
        f"{item.split} question about a {owner[item.cluster]} image"
        for item in items
        if item.split != owner[item.cluster]
    )
    return [item for item in items if item.split == owner[item.cluster]], left_out


def with_validation(items: list[Item]) -> list[Item]:
    """Return the items, with a validation split cut from the training images where there is none.

    Whether an image validates depends on a digest of its name alone, so that adding or removing images moves no other.
    """
    if any(item.split == "validate" for item in items):
        return items
    return [item._replace(split="validate") if _validates(item) else item for item in items]


def _validates(item: Item) -> bool:
    digest = hashlib.sha256(item.cluster.encode()).hexdigest()
    return item.split == "train" and int(digest[:8], 16) % VALIDATION_SHARE == 0


def loaded(items: Iterable[Item]) -> Loaded:
    """Return the examples of these items, with disjoint splits, and what was left out.

    Raises DataError for an id given twice, and where none of the image files is there.
    """
    items = list(items)
    twice = next((name for name, n in Counter(item.id for item in items).items() if n > 1), None)
    if twice is not None:
        raise DataError(f"two questions have the id {twice}; download the files again")
    paths = sorted({item.image for item in items if item.image})
    names: dict[str, str] = {}
    for path in paths:
        if os.path.isfile(path):
            try:
                names[path] = file_digest(Path(path))
            except OSError as error:
                raise DataError(f"image {path}: cannot be read ({error.strerror})") from error
    if paths and not names:
        raise DataError(f"image {paths[0]} not found, nor any of the other {len(paths) - 1}; put the images there")
    # The same bytes under several names are one image, called by the first of them. Empty files, or a server's words in
    # the place of many images, are alike without being one.
    broken = unreadable(names, check_header)
    first: dict[str, str] = {}
    kept = []
    left_out: Counter[str] = Counter()
    for item in items:
        lacks = "no question" if not item.question else "no answer" if not item.answer else ""
        if lacks or item.image not in names:
            left_out[lacks or "image file not found"] += 1
        else:
            one = item.cluster if item.image in broken else first.setdefault(names[item.image], item.cluster)
            kept.append(item._replace(cluster=one))
    kept, shared = disjoint(kept)
    examples = [
        Example(
            id=item.id,
            cluster=item.cluster,
            split=item.split,
            images=(os.path.abspath(item.image),),
            context=item.question,
            reference=item.answer,
            attributes=item.attributes,
        )
        for item in with_validation(kept)
    ]
    return Loaded(examples=examples, left_out=left_out + shared)


def hub_splits(hub: str) -> dict[str, Any]:
    """Return the splits of a data set on the Hugging Face hub, or in a folder of its form: this may download it.

    Raises DataError.
    """
    import datasets

    try:
        with quiet_hub():
            return dict(datasets.load_dataset(hub))
    except Exception as error:  # what fails depends on the hub's client: connection, permission, name, format
        if os.path.isdir(hub):
            raise DataError(
                f"data set {hub} cannot be read ({type(error).__name__}); its files are missing, damaged or of another "
                "form: fetch it again"
            ) from error
        raise DataError(
            f"data set {hub} cannot be loaded from the hub ({type(error).__name__}); check its id, the network and "
            "your access, or give a data root instead"
        ) from error


def hub_items(splits: Mapping[str, Any], source: str) -> list[Item]:
    """Return the rows of `datasets.Dataset` splits as items; their images are saved in the user's cache.

    Columns: image (holding images), question, answer, and the optional ones of `attributes`. An image's name is the
    digest of its bytes. Raises DataError for a split of another name, a missing column, or an image file that is not
    there.
    """
    import datasets

    items = []
    for name, rows in splits.items():
        if name not in _HUB_SPLITS:
            raise DataError(f"data set {source}: split {name!r} is not one of {', '.join(_HUB_SPLITS)}")
        lacks = [column for column in ("image", "question", "answer") if column not in rows.features]
        if lacks or not isinstance(rows.features["image"], datasets.Image):
            what = lacks[0] if lacks else "image that holds images"
            raise DataError(f"data set {source}: no column {what}; name a data set whose rows hold their images")
        for number, row in enumerate(rows.cast_column("image", datasets.Image(decode=False)), 1):
            where = f"data set {source}, split {name}, row {number}"
            identity, answer = f"{name}-{number:06d}", text(row, "answer", where)
            image = _saved_image(row["image"], where)
            items.append(
                Item(
                    id=identity,
                    image=image,
                    cluster=identity if image.endswith(f".{_NO_IMAGE}") else Path(image).stem,
                    split=_HUB_SPLITS[name],
                    question=text(row, "question", where),
                    answer=answer,
                    attributes=attributes(row, answer, where),
                )
            )
    return items


def _saved_image(image: Mapping[str, Any] | None, where: str) -> str:
    """Return the path in the cache of a row's image, written there unless it is there already; "" for no image.

    Bytes that are no image are kept under a suffix that says so: they cost their example, not the data set.
    """
    from io import BytesIO

    from PIL import Image

    if image is None or (image["bytes"] is None and not image["path"]):
        return ""
    try:
        data: bytes = Path(image["path"]).read_bytes() if image["bytes"] is None else image["bytes"]
    except OSError as error:
        raise DataError(f"{where}: its image cannot be read ({error.strerror}); fetch the data set again") from error
    try:
        with Image.open(BytesIO(data)) as opened:
            suffix = str(opened.format).lower()
    except Exception:  # damaged files make Pillow raise nearly anything; the engine will say what it is
        suffix = _NO_IMAGE
    digest = hashlib.sha256(data).hexdigest()
    with cache_folder() as cache:
        path = cache / "images" / digest[:2] / f"{digest}.{suffix}"
        if not path.is_file() or path.stat().st_size != len(data):
            write_bytes(path, data)
    return str(path)
