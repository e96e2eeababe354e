"""Reading short answers: normalisation, sameness, yes or no, and one of several options.

What an answer says may be nothing ("No image was provided.") or too much ("Yes and no"). That is a reason why it cannot
be judged, not a wrong answer.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache
from typing import Literal

from conrad_bench.reading.answers import answer_span

_ARTICLES = {"a", "an", "the"}
_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    )
}
# A word may hold decimal points; a Chinese character is a token of its own; signs that change a measure's meaning stay.
_TOKEN = re.compile(r"[<>%]|[\u3400-\u9fff]|(?:(?![\u3400-\u9fff])[^\W_])+(?:(?<=\d)\.\d[^\W_]*)*")
_CLAUSE = re.compile(r"[,;:!?\n。、]|\.(?!\d)")
_MEASURE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)(mm|cm|ml|cc|mg|kg|hu|kv|kvp|mas|years?|yrs?|months?|days?|weeks?)\b")
_NUMBERING = re.compile(r"^[ \t]*(?:\(?\d{1,2}[.)]|[-*•])[ \t]+(?=\D)", re.MULTILINE)
_LIST = re.compile(r"[,;/&+\n、]|\band\b|\.(?!\d)")
_SIDES = {"left", "right", "both"}
_LOOSE = 3
"""An answer of at most so many words is the same in any order, without one of these among them."""
_RELATIONS = {
    *("no", "not", "of", "to", "in", "on", "at", "than", "from", "by", "with", "without", "before", "after", "over"),
    *("under", "above", "below", "behind", "vs", "versus", "and", "or", "<", ">"),
}
_LEADING = {
    *("it", "its", "this", "that", "these", "those", "they", "there", "theres", "is", "are", "was", "were", "i", "see"),
    *("can", "in", "on", "at", "image", "picture", "scan", "shows", "show", "shown", "seen", "appears", "to", "be"),
}
"""Words that an answer may begin with and that say nothing: "It is in the left lung"."""

# As tokens: the Chinese words of SLAKE, one character a token.
_YES = {"yes", "yeah", "yep", "yup", "是", "是 的", "有", "存 在", "包 含", "包 括", "可 以"}
_NO = {"no", "nope", "nah", "不", "不 是", "否", "没 有", "无", "不 存 在", "不 包 含", "不 包 括", "不 可 以"}

# On tokens without articles, joined by blanks.
_SAYS_NOTHING = re.compile(
    r"\b(?:can ?not|cant|could not|couldnt|unable to|not able to|not possible to|impossible to)"
    r" (?:(?:be|really|reliably|definitively) )?(?:say|tell|determine|answer|know|provide|view|access|open|interpret|"
    r"comment|process|analy[sz]e|determined|answered|assessed|evaluated|see (?:any |this |image|picture))"
    r"|\b(?:do not|dont|does not|did not|didnt) (?:know|have (?:enough|access|image|any image))"
    r"|\b(?:not sure|unsure|unclear|uncertain|indeterminate|inconclusive|insufficient|not enough|sorry|as ai)\b"
    r"|\bno (?:idea|clue|information|info|context|comment|opinion|answer|way to)\b"
    r"|\bplease (?:share|provide|upload|send|attach|give)\b"
    r"|\b(?:language model|no (?:problem|worries)|i can help|happy to help)\b"
    r"|\bno (?:image|picture|photo|scan|file|attachment|data|input|x ray|radiograph)s?"
    r"(?: (?:is|was|were|are|has|have|provided|given|attached|available|uploaded|shown|supplied|here|to|for)\b|$)"
)
_DENIES = re.compile(
    r"^no\b|\b(?:there (?:is|are|was|were|appears to be|seems to be) (?:no|not)|theres (?:no|not)"
    r"|there (?:isnt|arent|wasnt|werent)|no evidence of|without evidence of"
    r"|(?:is|are|was|were) (?:not|no longer) (?:seen|present|visible|evident|identified|visualized|noted|demonstrated)"
    r"|(?:does|do|did) not (?:show|have|appear|demonstrate|reveal|contain)|(?:is|are) absent)\b"
)
_AFFIRMS = re.compile(
    r"\b(?:there (?:is|are|was|were|appears to be|seems to be)|theres|(?:image|picture|scan|x ray|radiograph) shows"
    r"|(?:is|are|was|were) (?:seen|present|visible|evident|identified|visualized|noted|demonstrated))\b"
)
_NEGATION = re.compile(
    r"\b(?:no|not|cannot|isnt|arent|wasnt|werent|dont|doesnt|didnt|cant|hasnt|havent|without|neither|nor|never|absent|"
    r"absence|negative|excluded|lacks?|lacking|ruled out|free of|resolved|disappeared|gone)\b"
)
_HEDGED = re.compile(
    r"\b(?:possibl[ey]|perhaps|maybe|may|might|could|unlikely|questionable|equivocal|suspicio(?:n|us)"
    r"|(?:can ?not|cant|not|couldnt) (?:be )?(?:entirely |fully )?(?:excluded?|ruled? out|confirm(?:ed)?))\b"
)
"""What leaves a statement open."""
_TURNED = re.compile(r"\b(?:no|not|normal|clear|absent|intact|without|unremarkable|free|negative|missing|healthy)\b")
"""What turns a question around: a denial of something in the answer may then be a yes."""
_STOP = {
    *("is", "are", "was", "were", "does", "do", "did", "there", "any", "this", "that", "these", "in", "on", "of", "at"),
    *("image", "picture", "scan", "evidence", "seen", "visible", "present", "show", "shows", "patient", "have", "has"),
    *("it", "to", "be", "can", "you", "see", "with", "for", "and", "or", "which", "what", "within", "from", "same"),
}

_OPPOSITES = (
    ("left", "right"),
    ("upper", "lower"),
    ("male", "female"),
    ("anterior", "posterior"),
    ("superior", "inferior"),
    ("medial", "lateral"),
    ("axial", "sagittal", "coronal"),
    ("ap", "pa"),
    ("ct", "mri"),
    ("t1", "t2"),
    ("normal", "abnormal"),
)
"""Answers that exclude each other, for closed questions that do not name their options."""

NEITHER = "the answer names none of the options"
BOTH = "the answer names several of the options"

Polarity = Literal["yes", "no", "both"]


def tokens(text: str) -> list[str]:
    """Return the normalised tokens of an answer: lower case, no articles or punctuation, number words as digits.

    "5cm" is "5 cm" and "xray" is "x ray". Articles that are all there is are kept ("A" may be the name of an option).
    """
    return list(_tokens(text))


@lru_cache(maxsize=2**14)  # one answer is compared with many, and its tokens are asked for a dozen times each
def _tokens(text: str) -> tuple[str, ...]:
    text = unicodedata.normalize("NFKC", text).lower()
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", re.sub("['’]", "", text))
    text = re.sub(r"\bxray", "x ray", _MEASURE.sub(r"\1 \2", text))
    found = tuple(_NUMBERS.get(token, token) for token in _TOKEN.findall(text))
    return tuple(token for token in found if token not in _ARTICLES) or found


def token_f1(candidate: str, reference: str) -> float:
    """Return the F1 score in [0, 1] of the tokens that two answers share, counted with multiplicity.

    Two answers without any token are equal (1); one of them without, nothing is shared (0).
    """
    ours, theirs = Counter(tokens(candidate)), Counter(tokens(reference))
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * (ours & theirs).total() / (ours.total() + theirs.total())


def same_answer(one: str, other: str) -> bool:
    """Return whether two answers are the same up to form.

    Beyond the tokens, these make no difference: the order of a list, numbers in front ("1. No hemorrhage"), "side"
    behind left or right, words that announce ("It is the left lung"), and the order of up to three words that stand in
    no relation ("upper right lobe", "lung, left").
    """
    ours, theirs = tokens(one), tokens(other)
    if ours == theirs or _canonical(one) == _canonical(other):
        return True
    return len(ours) <= _LOOSE and not _RELATIONS & {*ours} and sorted(ours) == sorted(theirs)


def _canonical(answer: str) -> list[list[str]]:
    """Return the items of an answer as normalised tokens, in an order of their own."""
    text = unicodedata.normalize("NFKC", answer).lower()
    text = _NUMBERING.sub("", re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text))
    items = [_plain(tokens(item)) for item in _LIST.split(text)]
    items = [item for item in items if item]
    return sorted(items) or [tokens(answer)]


def _plain(item: list[str]) -> list[str]:
    """Return tokens without leading words that say nothing, and without "side" behind a side."""
    start = 0
    while start < len(item) - 1 and item[start] in _LEADING:
        start += 1
    kept = item[start:]
    return [token for i, token in enumerate(kept) if not (token in ("side", "sided") and i and kept[i - 1] in _SIDES)]


def bare_answer(answer: str, question: str) -> str:
    """Return an answer without what stands around it ("Answer: yes"), and without the question said again."""
    asked = question.strip()
    if tokens(asked):
        answer = re.sub(re.escape(asked), " ", answer, flags=re.IGNORECASE).strip()
    span = answer_span(answer) if answer.strip() else None
    return answer[slice(*span)] if span else answer


def says_nothing(answer: str) -> bool:
    """Return whether an answer declines to answer ("I cannot tell", "No image was provided")."""
    return _SAYS_NOTHING.search(" ".join(tokens(answer))) is not None


def polarity(answer: str, question: str = "") -> Polarity | None:
    """Return what an answer to a yes/no question says, or None where it says neither.

    By its first word or (Chinese) first clause; otherwise by a statement that says again what the question asks, or
    that something which it asks for is there or is not.
    """
    answer = _NUMBERING.sub("", answer)
    found = tokens(answer)
    if not found:
        return None
    plain = plain_polarity(answer)
    if plain is not None:
        return plain
    clauses = [" ".join(tokens(clause)) for clause in _clauses(answer)]
    first = clauses[0] if clauses else ""
    head = found[0] if found[0] in ("yes", "no", "yeah", "yep", "yup", "nope", "nah") else first
    if head in _YES | _NO:
        said: Literal["yes", "no"] = "yes" if head in _YES else "no"
        others = _NO if said == "yes" else _YES
        joined = found[0] == head and len(found) > 2 and found[1] in ("or", "and") and found[2] in others
        slashed = found[0] == head and found[1:2] and found[1] in others and len(found) == 2
        if joined or slashed or any(clause in others for clause in clauses[1:]):
            return "both"
        return None if says_nothing(answer) else said
    whole = " ".join(found)
    return None if says_nothing(answer) or _HEDGED.search(whole) else _stated(whole, question)


def _stated(answer: str, question: str) -> Literal["yes", "no"] | None:
    """Return yes or no where an answer says again what the question asks, or that it is there, or is not.

    That something else is there, or that no abnormality is where the question asks for a normal heart, says neither.
    """
    asked = tokens(question)
    stems = {token[:5] for token in asked if len(token) > 2 and token not in _STOP}
    shared = stems & {token[:5] for token in answer.split()}
    if stems and shared == stems and not {"no", "not"} & set(asked):
        return "no" if {*_NEGATION.findall(answer)} - {*_NEGATION.findall(" ".join(asked))} else "yes"
    if _TURNED.search(" ".join(asked)) or (stems and not shared):
        return None
    if _DENIES.search(answer):
        return "no"
    return "yes" if _AFFIRMS.search(answer) else None


def plain_polarity(answer: str) -> Literal["yes", "no"] | None:
    """Return what an answer says that is nothing but a yes or a no."""
    word = " ".join(tokens(answer))
    return "yes" if word in _YES else "no" if word in _NO else None


def _clauses(answer: str) -> list[str]:
    """Return the clauses of an answer that have a word, in order."""
    return [clause for clause in _CLAUSE.split(unicodedata.normalize("NFKC", answer)) if tokens(clause)]


def closed_value(answer: str, reference: str, question: str = "") -> float | str:
    """Return 1 or 0 for an answer to a closed question, or the reason why it cannot be judged.

    Where the reference says yes or no, so must the answer. Otherwise it must name the reference, and no other option:
    those of the question ("left or right?"), or the known opposites of the reference. A first clause that is an option
    decides ("Left, the right side is clear").
    """
    wanted = plain_polarity(reference)
    if wanted is not None:
        said = polarity(answer, question)
        if said == "both":
            return "the answer says both yes and no"
        return "the answer says neither yes nor no" if said is None else float(said == wanted)
    if same_answer(answer, reference):
        return 1.0
    options = _options(reference, question)
    bare = [" ".join(_plain(tokens(clause))) for clause in _clauses(answer)]
    wanted_text = " ".join(_plain(tokens(reference)))
    if bare and bare[0] in (wanted_text, *options):
        others = {*options, wanted_text} - {bare[0]}
        return BOTH if others & set(bare[1:]) else float(bare[0] == wanted_text)
    if not bare or says_nothing(answer):
        return NEITHER
    if not options:
        return 0.0
    text = f" {' '.join(tokens(answer))} "
    named = [option for option in {*options, wanted_text} if f" {option} " in text]
    if len(named) != 1:
        return BOTH if named else NEITHER
    return float(named[0] == wanted_text)


def _options(reference: str, question: str) -> tuple[str, ...]:
    """Return the other options of a closed question, as tokens joined by blanks, as far as they are known."""
    asked, wanted = tokens(question), _plain(tokens(reference))
    for i, token in enumerate(asked):
        if token == "or" and 0 < i < len(asked) - 1 and len(wanted) == 1:
            sides = (asked[i - 1], asked[i + 1])
            if wanted[0] in sides:
                return (sides[1 - sides.index(wanted[0])],)
    if len(wanted) != 1:
        return ()
    return next((tuple(t for t in group if t != wanted[0]) for group in _OPPOSITES if wanted[0] in group), ())
