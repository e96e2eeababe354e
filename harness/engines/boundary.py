"""Where libraries read a user's files: what they raise over them, as an error that names the files and the remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from conrad_bench.errors import ConradBenchError, EngineError, HubUnreachable, MissingExtra, ModelError

_LONGEST = 300
"""Characters that are quoted of a library's message."""


@contextmanager
def translated(said: str) -> Iterator[None]:
    """Raise ModelError, `said` and the library's own words on one line, for whatever a library raises within.

    transformers, tokenizers, safetensors and PEFT raise exceptions of any kind over files that they cannot use, bare
    ones among them. HubUnreachable where the hub would have had the files, MissingExtra where a package is missing.
    Errors of ours pass, and a memory that is too small.
    """
    import torch

    try:
        yield
    except (ConradBenchError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if _asked_the_hub(error):
            raise HubUnreachable(
                f"{said}: it is not wholly in the local cache, and the hub cannot be reached; connect to the network "
                "once, or give the folder of a checkpoint"
            ) from error
        package = _missing(error)
        if package:
            raise MissingExtra(f"{said}: it needs {package}: pip install {package}") from error
        words = " ".join(str(error).split())
        if len(words) > _LONGEST:
            words = f"{words[:_LONGEST]} ..."
        raise ModelError(f"{said}: {type(error).__name__}: {words}") from error


@contextmanager
def refusals(model: Any) -> Iterator[None]:
    """Say which model cannot take a prompt, and not what the prompt says."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except (ValueError, RuntimeError) as error:
        raise EngineError(
            f"{type(model).__name__} cannot take a prompt ({type(error).__name__} in transformers); some models read "
            "no prompt without an image, or no more than one"
        ) from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what is behind it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _asked_the_hub(error: BaseException) -> bool:
    """Whether a hub that cannot be reached is behind an error."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    return any(isinstance(each, (LocalEntryNotFoundError, OfflineModeIsEnabled)) for each in _chain(error))


def _missing(error: BaseException) -> str | None:
    """Return the package that an import lacks, as a message or the import itself names it; None for other errors."""
    if not isinstance(error, ImportError):
        return None
    named = (re.search(r"pip install ([\w-]+)", str(each)) for each in _chain(error))
    names = (each.name for each in _chain(error) if isinstance(each, ImportError))
    # What transformers names neither way is torchvision.
    return next((found[1] for found in named if found), None) or next(filter(None, names), "torchvision")
