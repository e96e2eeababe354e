"""my_plugin: the longer a response, the lower the confidence in it.

Replace `confidence` by an idea of your own. `response` has the text, the token ids, and with `logprobs` among the needs
their log-probabilities. A method that asks for more (samples, hidden states, a fit) is a `conrad_bench.Method`:
docs/plugins.md of conrad-bench.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

import conrad_bench as cb


@cb.register_method
class MyPlugin(cb.ResponseMethod):
    """Confidence half / (half + n) for a response of n words."""

    name = "my_plugin"
    summary = "a baseline that trusts short responses"
    source = ""  # the paper, section or equation
    needs: ClassVar[frozenset[str]] = frozenset()  # cb.LOGPROBS, ...

    half: int = Field(default=20, ge=1)
    """Words at which the confidence is 0.5."""

    def confidence(self, response: cb.Response, claims: Sequence[cb.Claim]) -> float | Sequence[float]:
        """Return one number in [0, 1] for all claims, or one for each."""
        return self.half / (self.half + len(response.text.split()))
