"""`conrad-bench doctor`: what is installed here, what is known to work, and whether every engine really answers."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from conrad_bench.errors import ConradBenchError, MissingExtra

if TYPE_CHECKING:
    from conrad_bench.registry import Registry

KNOWN = {
    "torch": "2.13.0",
    "transformers": "5.17.0",
    "trl": "1.16.0",
    "peft": "0.21.2",
    "accelerate": "1.15.0",
    "datasets": "5.2.0",
    "bitsandbytes": "0.50.2",
    "ray": "2.60.0",
}
"""Versions that were run together; those of constraints.txt."""

OPTIONAL = {
    "bitsandbytes": ("4-bit weights", 'pip install "conrad-bench[quantization]"'),
    "ray": ("--ray: replicas of the model on several GPUs or nodes", 'pip install "conrad-bench[ray]"'),
    "openai": ("engine openai", 'pip install "conrad-bench[openai]"'),
    "starlette": ("conrad-bench view", 'pip install "conrad-bench[view]"'),
    "radeval": ("scorers green, precision_green and radeval", 'pip install --no-deps "radeval>=2.2.1"'),
}
"""Packages that a run may do without: what they are for, and how to get them."""

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: State
    found: str
    remedy: str = ""
    """What to do about a note or a problem."""


def examine(registry: Registry, model: str | None, base_url: str | None) -> Iterator[Finding]:
    """Look at the machine, the packages, the GPUs, the model, the data roots and the engines, one after the other.

    `model` is a folder or hub id whose files are to be found, or with `base_url` the name of a model on that server;
    None leaves it out. Nothing is downloaded but a hub model's configuration.
    """
    yield _python()
    yield from _packages()
    yield from _devices()
    if model is not None and base_url is None:
        yield _model(model)
    yield from _data_roots(registry)
    yield from _engines(registry, {"model": model or "", "base_url": base_url} if base_url else None)


def _python() -> Finding:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else 0.0
    size = f", {memory:.0f} GiB of memory" if memory else ""
    found = f"Python {platform.python_version()} on {platform.machine()}, {os.cpu_count()} CPUs{size}"
    return Finding("machine", "ok", found)


def _packages() -> Iterator[Finding]:
    for name in (*KNOWN, *(name for name in OPTIONAL if name not in KNOWN)):
        try:
            installed = version(name)
        except PackageNotFoundError:
            if name in OPTIONAL:
                purpose, remedy = OPTIONAL[name]
                yield Finding(name, "note", f"not installed; needed for {purpose}", remedy)
            else:
                yield Finding(name, "problem", "not installed", f"pip install {name}=={KNOWN[name]}")
            continue
        known = KNOWN.get(name)
        if known is None or installed.partition("+")[0] == known:
            yield Finding(name, "ok", installed)
        else:
            remedy = f"if something fails: pip install {name}=={known}"
            yield Finding(name, "note", f"{installed}; {known} is known to work", remedy)


def _devices() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        if torch.version.cuda is not None:
            remedy = "check `nvidia-smi` and CUDA_VISIBLE_DEVICES; without a GPU, a CPU build of torch is smaller"
            yield Finding("GPU", "note", f"torch was built for CUDA {torch.version.cuda} and sees no GPU", remedy)
        else:
            yield Finding(
                "GPU", "note", "none: torch is a CPU build", "fine for the phantom world, slow for real models"
            )
        return
    for i in range(torch.cuda.device_count()):
        free, total = (size / 2**30 for size in torch.cuda.mem_get_info(i))
        found = f"{torch.cuda.get_device_name(i)}, {free:.1f} of {total:.1f} GiB free"
        if free < total / 2:
            yield Finding(f"GPU {i}", "note", found, "another process holds its memory: see `nvidia-smi`")
        else:
            yield Finding(f"GPU {i}", "ok", found)


def _model(model: str) -> Finding:
    from conrad_bench.engines.loading import locate
    from conrad_bench.plan import PHANTOM_MODEL, embedded_model

    try:
        where = locate(embedded_model() if model == PHANTOM_MODEL else model, None)
    except ConradBenchError as error:
        return Finding("model", "problem", f"{model} cannot be used", str(error))
    return Finding("model", "ok", f"{model}, {where.get('revision') or where['model'][:19]}")


def _data_roots(registry: Registry) -> Iterator[Finding]:
    classes = registry.available("tasks")
    for variable in sorted({cls.root_variable for cls in classes.values()}):
        tasks = [name for name, cls in classes.items() if cls.root_variable == variable]
        root, what = os.environ.get(variable), f"data of {', '.join(tasks)}"
        if not root:
            drawn = all(classes[name].phantom_layout for name in tasks)
            otherwise = "without either a run takes phantom data" if drawn else "no phantom data stand in"
            remedy = f"name the folder by it or by --data-root; {otherwise}"
            yield Finding(what, "note", f"{variable} is not set", remedy)
        elif not Path(root).is_dir():
            yield Finding(what, "problem", f"{variable}={root} is no folder", f"set {variable} to the data's folder")
        else:
            yield Finding(what, "ok", f"{variable}={root}; `conrad-bench run --dry-run` reads it")


def _engines(registry: Registry, served: dict[str, str] | None) -> Iterator[Finding]:
    """Let every engine write a few tokens about one phantom radiograph, with the embedded model or on a server."""
    from PIL import Image

    from conrad_bench.engines.base import Job
    from conrad_bench.plan import embedded_model
    from conrad_bench.tasks.phantom import render, world
    from conrad_bench.tasks.prompts import report_text
    from conrad_bench.types import Message, Prompt, Sampling

    model = embedded_model()
    with tempfile.TemporaryDirectory() as folder:
        study = next(iter(world.studies(1, 0, split="test")))
        path = Path(folder) / "frontal.png"
        Image.fromarray(render.frontal(study)).save(path)
        prompt = Prompt((Message("user", report_text(study.indication, None)),), (str(path),))
        for name in registry.available("engines"):
            if name == "openai" and served is None:
                yield Finding("engine openai", "note", "not tried", "name a server and its model: --base-url, --model")
                continue
            start = time.perf_counter()
            try:
                options = served if name == "openai" and served is not None else {"model": model}
                engine = registry.create("engines", name, options)
                notes = engine.notes(pictures=True)
                (made,) = engine.generate([Job(prompt)], Sampling(max_tokens=8), None)
                engine.close()
            except MissingExtra as error:
                yield Finding(f"engine {name}", "note", "not installed", str(error))
                continue
            except Exception as error:  # whatever is wrong here is what the user came to learn
                yield Finding(f"engine {name}", "problem", f"fails with {type(error).__name__}", str(error))
                continue
            seconds = time.perf_counter() - start
            yield Finding(f"engine {name}", "ok", f"wrote {len(made.token_ids)} tokens, {seconds:.1f} s with loading")
            yield from (Finding(f"engine {name}", "note", note) for note in notes)
    for failure in registry.failures.values():
        yield Finding("plugin", "problem", "does not work", str(failure))
