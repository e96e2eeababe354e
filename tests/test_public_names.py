"""The public names are exactly those that are promised, and each can be imported."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import conrad_bench


def test_all_is_exact() -> None:
    promised = {name for names in conrad_bench._HOMES.values() for name in names} | {"__version__"}
    assert sorted(promised) == sorted(conrad_bench.__all__)
    for name in conrad_bench.__all__:
        assert getattr(conrad_bench, name) is not None


def test_the_reference_has_them_all() -> None:
    """Those that are no metrics by a line each: metrics are made on first use and listed when the site is built."""
    from conrad_bench.leaderboards.functions import METRIC_NAMES

    text = (Path(__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^::: conrad_bench\.(\w+)$", text, re.MULTILINE)
    assert sorted([*listed, *METRIC_NAMES, "__version__"]) == sorted(conrad_bench.__all__)
    assert "<!-- metrics -->" in text


def test_importing_the_package_is_light() -> None:
    code = "import sys, conrad_bench; print(sorted({'numpy', 'torch', 'pydantic', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
