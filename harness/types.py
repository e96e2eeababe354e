"""The vocabulary of conrad-bench as types: what tasks, methods, engines and scorers hand to each other.

One word, one meaning: an *example* is one item of a task, a *prompt* is what a model is asked, a *response* is what it
generated, a *claim* is the unit that carries one confidence, an *estimate* joins a response with its claims, and a
*score* is the correctness of one claim.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Split = Literal["train", "validate", "test"]
Granularity = Literal["report", "sentence", "answer"]
Status = Literal[
    "ok",
    "no_confidence",
    "out_of_range",
    "no_answer",
    "empty",
    "truncated",
    "scorer_failed",
    "image_unreadable",
    "method_failed",
]
FinishReason = Literal["stop", "length", "image_unreadable"]
"""The model ended its response; it was cut off; or there is none, since an image of the prompt cannot be read."""

END = "\x03"
"""The end of a model's turn, as the last character of a continuation that is scored with it."""

STATUSES: tuple[Status, ...] = get_args(Status)


# What methods need and engines provide.
LOGPROBS = "logprobs"
"""Log-probabilities of generated or given tokens."""
HIDDEN_STATES = "hidden_states"
"""Hidden states of a chosen layer at chosen tokens."""
DISTRIBUTIONS = "distributions"
"""What the model's whole distribution says at each token of a response that is there: `TOKEN_COLUMNS`."""
FITTING = "fitting"
"""A fit on the task's training and validation examples before anything is estimated. Every engine serves it."""
TRAINING = "training"
"""A fit that trains a differentiable torch model."""
SAMPLING = "sampling"
"""Several sampled responses to one prompt."""

TOKEN_COLUMNS = ("logprob", "entropy", "margin", "self_certainty")
"""What is told of each token when a response is read again, at temperature 1: its natural-log probability; the entropy
of the distribution that it was chosen from, in nats; the difference of the two largest probabilities; and the
Kullback-Leibler divergence of that distribution from the uniform one, KL(uniform || distribution), in nats."""

CHANCE = frozenset({FITTING, TRAINING, SAMPLING})
"""Needs of methods whose confidences depend on a seed."""
NEEDS = (LOGPROBS, HIDDEN_STATES, DISTRIBUTIONS, FITTING, TRAINING, SAMPLING)


@dataclass(frozen=True, slots=True)
class Example:
    """One item of a task."""

    id: str
    """Unique within the task."""
    cluster: str
    """Patient (reports) or image (visual question answering): the unit of the bootstrap and of the splits."""
    split: Split
    images: tuple[str, ...]
    """Absolute paths of the image files, in the order in which the model sees them."""
    context: str
    """Text given beside the images: the indication, or the question. May be empty."""
    reference: str
    """The text that correctness is judged against."""
    attributes: Mapping[str, str | float] = field(default_factory=dict)
    """Columns for subgroups (view, sex, image quality, ...); they travel into the records."""
    answered: tuple[str, ...] | None = None
    """The images that the response was written about, where it is to be judged beside others: `images`. None: it is
    written about `images`."""
    given: Estimate | None = None
    """The response and the claims that a method is to rate, where another method wrote them. None: it gets its own."""
    priors: tuple[str, ...] = ()
    """Absolute paths of the pictures of an earlier study, for those who review reports: no model is shown them."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat. Images of a prompt always stand at the start of its first user turn."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is asked: a chat that ends with a user turn, and optionally the start of the answer."""

    messages: tuple[Message, ...]
    images: tuple[str, ...] = ()
    elicit: str | None = None
    """Name of the elicitation format that the answer should follow (see `reading.elicitation`), or None."""
    prefix: str = ""
    """The start of the model's answer, to be continued (a report written before, and the confidence marker)."""
    prefix_ids: tuple[int, ...] = ()
    """Token ids of `prefix` as the model wrote them. Empty: the engine tokenizes `prefix` itself."""


@dataclass(frozen=True, slots=True)
class Response:
    """Text that a model generated for one prompt (without the prompt's prefix)."""

    key: str
    """The rollout's key in the store: what records join on."""
    text: str
    """Decoded text without special tokens."""
    token_ids: tuple[int, ...]
    """Generated tokens, the end-of-turn token included where the model wrote it."""
    logprobs: tuple[float, ...] | None
    """Natural-log probability of each generated token, under the distribution at temperature 1 without truncation."""
    finish_reason: FinishReason
    sample: int = 0
    """Sample index among the responses to the same prompt."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The unit that carries one confidence: the whole report, one sentence, or one answer."""

    text: str
    span: tuple[int, int]
    """Character offsets of `text` in the response's text."""
    confidence: float | None = None
    """In [0, 1]; None where the response stated none (then `status` says why)."""
    status: Status = "ok"
    distribution: tuple[float, ...] | None = None
    """Probabilities of the eleven confidences 0 to 10 where the claim's own was stated; what they lack to 1 is that of
    malformed answers. None where a method does not read them."""
    reading: str = ""
    """How a stated confidence was written: "8", "8/10", "a percentage", ... (see `reading.stated`)."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a method says about one example: the response that it evaluates and a confidence for each claim."""

    example_id: str
    response: Response
    claims: tuple[Claim, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """Correctness of one claim in [0, 1], or None with the reason why the scorer could not judge it."""

    value: float | None
    reason: str = ""
    by: tuple[tuple[str, float], ...] = ()
    """Where several judges were asked: the name and the score of each that could judge the claim."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. Temperature 0 is greedy decoding."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 512
    seed: int = 0
    choices: tuple[str, ...] = ()
    """The only texts that a response can be; empty: any text. Responses then come without log-probabilities: engines
    differ in whether these are of the free or of the restricted choice."""
