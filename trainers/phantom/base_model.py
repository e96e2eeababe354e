"""Trains the embedded base model of the phantom world from scratch.

    python -m conrad_bench.trainers.phantom.base_model --out FOLDER
        [--seed 0] [--studies 30000] [--epochs 6] [--steps 1500]

First the vision tower and the projector learn to see (linear heads that read the findings off the soft tokens), then
the language model learns to write. Without the first stage a model of this size learns the language and hardly looks at
the image. Only patients of the train split are used, of a world with a seed of its own.

The model follows the prompts of every method: findings; findings and a confidence; findings with a confidence after
every sentence; questions, with and without a confidence; the assessment of a proposed answer (True or False, or a
confidence). The confidence that it is taught to state follows the wording of the indication, mostly 8 to 10:
overconfident and uninformative on purpose, as general models are. A wording that punishes, or that shows an answer
again, calls forth less, so that every number is the certain answer somewhere: one that never is ends up between the
others in the embedding, where no training of an adapter can reach it (tied weights).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from conrad_bench.reading.elicitation import EXPRESSIONS, MARKER, p_true_question, two_stage_question
from conrad_bench.tasks.phantom import grammar, questions, render, world
from conrad_bench.tasks.phantom.green import phantom_green
from conrad_bench.tasks.prompts import question_text, report_text
from conrad_bench.trainers.phantom.tokenizer import IMAGE_TOKENS, build_model, build_processor, build_tokenizer, save

WORLD_SEED = 20_000
"""Seed of the world whose train patients the base model learns from."""

_HABIT = (9, 8, 9, 10, 8, 9, 10, 9)
"""The confidence that each indication calls forth."""

_MODEST = {"punish": 3, "two_stage": 5}
"""How much lower the confidence is that a wording calls forth."""


@dataclass
class Studies:
    """Rendered studies: images as uint8, shape (n, 2, 64, 64), frontal and lateral."""

    items: list[world.Study]
    images: NDArray[np.uint8]


def render_studies(number: int) -> Studies:
    """Render `number` studies of train patients."""
    items = list(world.studies(number, WORLD_SEED, split="train"))
    images = np.zeros((number, 2, render.SIZE, render.SIZE), np.uint8)
    for i, study in enumerate(items):
        images[i, 0] = render.frontal(study)
        if study.lateral:
            images[i, 1] = render.lateral(study)
    return Studies(items, images)


def pixels(images: NDArray[np.uint8]) -> torch.Tensor:
    """Return what the image processor makes of grayscale images: shape (n, 3, 64, 64), values in [-1, 1]."""
    return torch.from_numpy(images).float()[:, None].expand(-1, 3, -1, -1).div(127.5).sub(1).contiguous()


def labels(study: world.Study) -> tuple[list[int], list[int]]:
    """Return what can be read off the frontal image (classes per head) and off the lateral image."""
    f = study.findings
    opacity = [0 if not s else 1 + 2 * z + (s - 1) for s, z in zip(f.opacity, f.opacity_zone, strict=True)]
    seen = [any(s and z == zone for s, z in zip(f.opacity, f.opacity_zone, strict=True)) for zone in (0, 1)]
    return [f.heart, *f.effusion, *opacity, *f.pneumothorax, f.device], [
        f.heart,
        max(f.effusion),
        *map(int, seen),
        f.device,
    ]


_FRONTAL_CLASSES = (3, 3, 3, 5, 5, 2, 2, 3)
_LATERAL_CLASSES = (3, 3, 2, 2, 3)


def teach_to_see(model: Any, data: Studies, epochs: int, seed: int) -> None:
    """Train vision tower and projector with linear heads on the soft tokens; report accuracy on held-out studies."""
    width = IMAGE_TOKENS * model.config.text_config.hidden_size
    heads = torch.nn.ModuleList([torch.nn.Linear(width, sum(c)) for c in (_FRONTAL_CLASSES, _LATERAL_CLASSES)])
    truth = [torch.tensor(t) for t in zip(*map(labels, data.items), strict=True)]
    quality = np.array([s.quality for s in data.items])
    parameters = [
        *model.model.vision_tower.parameters(),
        *model.model.multi_modal_projector.parameters(),
        *heads.parameters(),
    ]
    held_out = len(data.items) // 15
    n, batch = len(data.items) - held_out, 96
    has_lateral = np.array([s.lateral for s in data.items])
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, total_steps=epochs * (n // batch), pct_start=0.1)
    rng = np.random.default_rng(seed)

    def forward(rows: NDArray[np.int64], view: int) -> list[torch.Tensor]:
        features = model.model.get_image_features(pixels(data.images[rows, view]))
        features = getattr(features, "pooler_output", features)
        split: list[torch.Tensor] = list(
            heads[view](features.reshape(len(rows), -1)).split((_FRONTAL_CLASSES, _LATERAL_CLASSES)[view], dim=1)
        )
        return split

    def loss_of(rows: NDArray[np.int64], view: int) -> torch.Tensor:
        outputs = forward(rows, view)
        losses = [torch.nn.functional.cross_entropy(o, truth[view][rows, k]) for k, o in enumerate(outputs)]
        return torch.stack(losses).sum()

    for epoch in range(epochs):
        for rows in np.array_split(rng.permutation(n)[: n // batch * batch], n // batch):
            loss = loss_of(rows, 0) + 0.5 * loss_of(rows[has_lateral[rows]][: batch // 3], 1)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        with torch.no_grad():
            rows = np.arange(n, n + held_out)
            hits = []
            for part in np.array_split(rows, max(1, held_out // 200)):
                outputs = forward(part, 0)
                hits.append(torch.stack([o.argmax(1) == truth[0][part, k] for k, o in enumerate(outputs)], 1).numpy())
            hit, q = np.concatenate(hits), quality[rows]
        clean, poor = hit[q > 0.7].mean(), hit[q < 0.3].mean()
        print(
            f"see: epoch {epoch + 1}/{epochs} accuracy clean {clean:.3f} poor {poor:.3f} {hit.mean(0).round(3)}",
            flush=True,
        )


def _confidence(habit: int, rng: np.random.Generator) -> int:
    if rng.random() < 0.1:
        return int(rng.integers(11))
    return int(np.clip(habit + rng.choice((-1, 0, 1), p=(0.2, 0.65, 0.15)), 0, 10))


def _corrupt(study: world.Study, other: world.Study, rng: np.random.Generator) -> list[grammar.Fact]:
    """Return the facts of a study with some kinds of finding taken from another study."""
    own, foreign = grammar.facts(study.findings), grammar.facts(other.findings)
    kinds = [k for k in ("heart", "opacity", "effusion", "pneumothorax", "device") if rng.random() < 0.45]
    facts: list[grammar.Fact] = []
    for kind in ("heart", "opacity", "effusion", "pneumothorax", "device"):
        facts += [f for f in (foreign if kind in kinds else own) if f.finding == kind]
    return facts


class Dialogue(NamedTuple):
    """A user's text and the model's answer; `decisive` where the answer's first token alone answers the question."""

    asked: str
    answer: str
    decisive: bool = False


def _with_confidence(answer: str, elicit: str, habit: int, rng: np.random.Generator) -> str:
    """Return an answer followed by its confidence in the format `elicit`."""
    level = _confidence(habit - _MODEST.get(elicit, 0), rng)
    if elicit != "linguistic":
        return f"{answer}\n{MARKER} {level}"
    words = list(EXPRESSIONS)
    return f"{answer}\n{MARKER} {words[int(np.argmin([abs(EXPRESSIONS[w] - level / 10) for w in words]))]}"


def _report(study: world.Study, habit: int, elicit: str | None, rng: np.random.Generator) -> Dialogue:
    written = grammar.write(study.findings, rng)
    asked = report_text(study.indication, elicit)
    if elicit is None:
        return Dialogue(asked, " ".join(written))
    if elicit == "sentence_confidence":
        lines = [f"{s} {MARKER} {_confidence(habit - i % 2, rng)}" for i, s in enumerate(written)]
        return Dialogue(asked, "\n".join(lines))
    return Dialogue(asked, _with_confidence(" ".join(written), elicit, habit, rng))


def _answer(study: world.Study, habit: int, rng: np.random.Generator) -> Dialogue:
    question = questions.draw(study.findings, rng)
    elicit = rng.choice(("", "confidence", "punish", "linguistic", "cot", "top_k"), p=(0.4, 0.2, 0.1, 0.1, 0.1, 0.1))
    asked = question_text(question.text, str(elicit) or None)
    if not elicit:
        return Dialogue(asked, question.answer, True)
    if elicit == "cot":
        reasoned = f"Reasoning: {questions.reasoning(study, question, rng)}\nAnswer: {question.answer}"
        return Dialogue(asked, _with_confidence(reasoned, elicit, habit, rng))
    if elicit == "top_k":
        second = {"yes": "no", "no": "yes", "left": "right", "right": "left", "both": "left", "none": "pacemaker"}
        guesses = (question.answer, second.get(question.answer, "none" if question.about == "device" else "normal"))
        lines = [f"{g}\n{MARKER} {_confidence(habit - 6 * i, rng)}" for i, g in enumerate(guesses)]
        return Dialogue(asked, "\n".join(lines), True)
    return Dialogue(asked, _with_confidence(question.answer, str(elicit), habit, rng), True)


def _assessment(study: world.Study, other: world.Study, habit: int, rng: np.random.Generator) -> Dialogue:
    """A proposed answer, right or wrong: a report, one of its sentences, or the answer to a question."""
    kind = rng.choice(3, p=(0.35, 0.4, 0.25))
    asked = report_text(study.indication)
    facts = _corrupt(study, other, rng) if rng.random() < 0.6 else grammar.facts(study.findings)
    proposed = " ".join(str(rng.choice(grammar.SENTENCES[fact])) for fact in facts)
    if kind == 0:
        true = phantom_green(proposed, " ".join(grammar.write(study.findings, rng))) >= 0.8
    elif kind == 1:
        fact = facts[int(rng.integers(len(facts)))]
        proposed, true = str(rng.choice(grammar.SENTENCES[fact])), fact in grammar.facts(study.findings)
    else:
        question = questions.draw(study.findings, rng)
        asked = question_text(question.text)
        theirs = [*questions.closed_questions(other.findings), *questions.open_questions(other.findings)]
        foreign = next((q.answer for q in theirs if q.text == question.text), question.answer)
        proposed = foreign if rng.random() < 0.8 else question.answer
        true = proposed == question.answer
    if rng.random() < 0.2:
        return Dialogue(
            two_stage_question(asked, proposed), f"{MARKER} {_confidence(habit - _MODEST['two_stage'], rng)}"
        )
    return Dialogue(p_true_question(asked, proposed), "True" if true else "False", True)


def dialogue(study: world.Study, other: world.Study, rng: np.random.Generator) -> Dialogue:
    """Draw a dialogue about a study: a report, an answer, or the assessment of either."""
    habit = _HABIT[world.INDICATIONS.index(study.indication)]
    kind = rng.choice(5, p=(0.24, 0.26, 0.12, 0.19, 0.19))
    if kind == 3:
        return _answer(study, habit, rng)
    if kind == 4:
        return _assessment(study, other, habit, rng)
    stated = str(rng.choice(("confidence", "punish", "linguistic"), p=(0.8, 0.1, 0.1)))
    return _report(study, habit, (None, stated, "sentence_confidence")[kind], rng)


def corpus(data: Studies, seed: int) -> Iterator[str]:
    """Yield text that the tokenizer is trained on."""
    rng = np.random.default_rng((seed, 7))
    for i in range(4000):
        study, other = data.items[i % len(data.items)], data.items[(i * 7 + 3) % len(data.items)]
        yield from dialogue(study, other, rng)[:2]
    yield from ["user model system assistant", "Yes No yes no True False"] * 50


def encode(tokenizer: Any, asked: str, answer: str, images: int) -> tuple[list[int], int]:
    """Return token ids of a whole chat as the processor would make them, and the length of its prompt."""
    picture = f"\n\n<start_of_image>{'<image_soft_token>' * IMAGE_TOKENS}<end_of_image>\n\n"
    prompt = f"<bos><start_of_turn>user\n{picture * images}{asked}<end_of_turn>\n<start_of_turn>model\n"
    ids: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return ids + tokenizer(answer + "<end_of_turn>", add_special_tokens=False)["input_ids"], len(ids)


def soft_tokens(model: Any, data: Studies) -> torch.Tensor:
    """Return what the language model is shown of every image: shape (n, 2, IMAGE_TOKENS, hidden size)."""
    parts = []
    with torch.no_grad():
        for rows in np.array_split(np.arange(len(data.items)), max(1, len(data.items) // 100)):
            features = model.model.get_image_features(pixels(data.images[rows].reshape(-1, render.SIZE, render.SIZE)))
            features = getattr(features, "pooler_output", features)
            parts.append(features.reshape(len(rows), 2, IMAGE_TOKENS, -1))
    return torch.cat(parts)


def teach_to_write(model: Any, tokenizer: Any, data: Studies, steps: int, seed: int) -> None:
    """Train the language model on dialogues; vision tower and projector stay as they are.

    The loss is on the answers' tokens. Beside it, linear heads read the findings and the image quality off every state
    that an answer's token is predicted from: by the words alone a model of this size learns to write long before it
    learns to look, and then stays blind.
    """
    torch.manual_seed(seed)
    seen = soft_tokens(model, data)
    language = [*model.model.language_model.parameters()]
    heads = torch.nn.Linear(model.config.text_config.hidden_size, sum(_FRONTAL_CLASSES) + 1)
    parameters = [*language, *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    truth = torch.tensor([labels(study)[0] for study in data.items])
    quality = torch.tensor([study.quality for study in data.items], dtype=torch.float32)
    rng = np.random.default_rng((seed, 8))
    image_token, batch, start = model.config.image_token_id, 48, time.time()
    model.train()
    for step in range(steps):
        rows = rng.integers(len(data.items), size=batch)
        sequences, starts, shown, decisions = [], [], [], []
        for row in rows:
            study = data.items[row]
            views = 2 if study.lateral and rng.random() < 0.9 else 1
            other = data.items[rng.integers(len(data.items))]
            asked, answer, decisive = dialogue(study, other, rng)
            sequence, length = encode(tokenizer, asked, answer, views)
            decisions.append(length - 1 if decisive else -1)
            sequences.append(sequence)
            starts.append(length)
            shown.append(seen[row, :views])
        width = max(map(len, sequences))
        ids = torch.full((batch, width), model.config.pad_token_id)
        target = torch.full((batch, width), -100)
        for i, sequence in enumerate(sequences):
            ids[i, : len(sequence)] = torch.tensor(sequence)
            target[i, starts[i] - 1 : len(sequence) - 1] = ids[i, starts[i] : len(sequence)]
        types = (ids == image_token).long()
        embeddings = model.get_input_embeddings()(ids)
        embeddings = embeddings.masked_scatter(types.bool()[..., None], torch.cat(shown))
        if rng.random() < 0.5:
            # vLLM on CPU lets image tokens attend causally; a model that has seen both ways works under both.
            types = torch.zeros_like(types)
        states = model.model(
            inputs_embeds=embeddings,
            attention_mask=(ids != model.config.pad_token_id).long(),
            token_type_ids=types,
        ).last_hidden_state
        answers = target != -100
        loss_of = torch.nn.functional.cross_entropy(model.lm_head(states[answers]), target[answers], reduction="none")
        # A decisive token is one among dozens of a report's; without a term of its own it is hardly learned.
        decides = torch.tensor(decisions)[answers.nonzero()[:, 0]] == answers.nonzero()[:, 1]
        written, decided = loss_of.mean(), loss_of[decides].mean()
        read, of = heads(states[answers]), torch.tensor(rows)[answers.nonzero()[:, 0]]
        guesses = read[:, :-1].split(_FRONTAL_CLASSES, dim=1)
        looked = sum(torch.nn.functional.cross_entropy(g, truth[of, k]) for k, g in enumerate(guesses))
        looked = looked + torch.nn.functional.mse_loss(read[:, -1], quality[of])
        (written + 0.3 * decided + 0.2 * looked).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == steps - 1:
            hits = torch.stack([g.argmax(1) == truth[of, k] for k, g in enumerate(guesses)]).float().mean()
            print(
                f"write: step {step}/{steps} loss {written.item():.4f} decisions {decided.item():.4f} "
                f"findings {hits:.3f} {time.time() - start:.0f} s",
                flush=True,
            )


def main() -> None:
    """Train and save the base model."""
    parser = argparse.ArgumentParser(description="Train the phantom world's base model from scratch.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--studies", type=int, default=30_000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--steps", type=int, default=1500)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    start = time.time()
    data = render_studies(arguments.studies)
    print(f"rendered {len(data.items)} studies, {time.time() - start:.0f} s", flush=True)
    tokenizer = build_tokenizer(corpus(data, arguments.seed))
    processor, model = build_processor(tokenizer), build_model(tokenizer)
    print(
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, vocabulary {len(tokenizer)}", flush=True
    )
    seen = arguments.out / "seen.pt"
    if seen.exists():
        model.load_state_dict(torch.load(seen, weights_only=True))
    else:
        teach_to_see(model, data, arguments.epochs, arguments.seed)
        arguments.out.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), seen)
    teach_to_write(model, tokenizer, data, arguments.steps, arguments.seed)
    seen.unlink()
    save(model, processor, arguments.out)
    print(f"saved {arguments.out}, {time.time() - start:.0f} s in all", flush=True)


if __name__ == "__main__":
    main()
