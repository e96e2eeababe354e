"""Where libraries read a user's files: what they raise over them, as an error that names the files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from conrad_bench.errors import ConradBenchError, ModelError

_LONGEST = 300
"""Characters that are quoted of a library's message."""


@contextmanager
def translated(said: str) -> Iterator[None]:
    """Raise ModelError, `said` and the library's own words on one line, for whatever a library raises within.

    transformers, tokenizers, safetensors and PEFT raise exceptions of any kind over files that they cannot use, bare
    ones among them. Errors of ours pass, and a memory that is too small.
    """
    import torch

    try:
        yield
    except (ConradBenchError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        words = " ".join(str(error).split())
        if len(words) > _LONGEST:
            words = f"{words[:_LONGEST]} ..."
        raise ModelError(f"{said}: {type(error).__name__}: {words}") from error
