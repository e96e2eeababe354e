"""What results were made with: the versions of packages, the commit of the source tree, the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

PACKAGES = (
    "conrad-bench",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "bitsandbytes",
    "vllm",
    "ray",
    "numpy",
)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on; absent packages are left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str:
    """Return the commit of the source tree that runs, with "+" if it was changed since; "" outside a checkout."""
    folder = Path(str(files("conrad_bench"))).resolve()

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        # A wheel inside somebody else's repository must not borrow that repository's commit.
        if not (Path(git("rev-parse", "--show-toplevel")) / "harness" / "provenance.py").is_file():
            return ""
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def hardware() -> dict[str, Any]:
    """Return processor count, platform, and the names of the CUDA devices that torch sees."""
    import torch

    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }
