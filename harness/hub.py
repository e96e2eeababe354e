"""The Hugging Face hub's client."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Keep the client from counting its attempts on the screen; what comes of them is for the caller to say."""
    import huggingface_hub  # noqa: F401 - it sets the level of its logger when it is imported

    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
