"""Every error that a user can meet, in one place.

    ConradBenchError              exit code 1: something failed while working
      UserError                   exit code 2: something the user asked for cannot be done as asked
        ConfigError               a config file, an option or a command-line value
        PluginError               a plugin that does not import or breaks its contract, or two with one name
        PlanError                 methods, tasks and engine do not fit together (all mismatches listed)
        DataError                 a data root, a file or a line in it
          ImageError              a file that holds no image, or none that can be read; costs its example, not the run
        ModelError                a model that cannot be found or loaded
          HubUnreachable          a model that could be on the hub, which did not answer
        MissingExtra              an optional package; the message is the pip command
      EngineError                 generation or scoring failed
      TrainingError               a fit that would train on nothing, diverged or lost its format
      StorageError                the run folder cannot be written or read (disk full, read-only)

Messages name the file, line or key and say what to do. They never contain patient text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self


class ConradBenchError(Exception):
    """Base of all errors; `exit_code` is what the command line returns."""

    exit_code = 1

    answers: Sequence[Any] = ()
    """What an engine had answered of a batch before it failed, None in the places of the others; these are kept."""


class UserError(ConradBenchError):
    """The user's input cannot be used as it is."""

    exit_code = 2


class ConfigError(UserError):
    """A config file, an option or a command-line value is wrong."""


class PluginError(UserError):
    """A plugin cannot be used."""


class PlanError(UserError):
    """Methods, tasks and engine do not fit together."""


class DataError(UserError):
    """A data root, a file or a line in it is not as its official layout says."""


class ImageError(DataError):
    """An image file cannot be read as an image. It costs its example; `--strict` stops the run."""

    path: str = ""
    """The file."""

    @classmethod
    def of(cls, path: str, what: str) -> Self:
        """Return the error of a file and what is wrong with it: "is empty (0 bytes); download it again"."""
        error = cls(f"image {path} cannot be read: it {what}")
        error.path = path
        return error


class ModelError(UserError):
    """A model cannot be found or loaded."""


class HubUnreachable(ModelError):  # noqa: N818 - the name says what is wrong
    """A model is not on this machine, and the hub cannot be asked about it now."""


class MissingExtra(UserError):  # noqa: N818 - the name says what is wrong
    """An optional package is not installed."""


class EngineError(ConradBenchError):
    """Generation, scoring or reading hidden states failed."""


class TrainingError(ConradBenchError):
    """A fit cannot go on."""


class StorageError(ConradBenchError):
    """The run folder cannot be written or read."""
