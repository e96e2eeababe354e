"""A real language model on real questions: Gemma 3 270M under a small vision tower, taught VQA-RAD.

    python benchmarks/real_vqa.py build MODEL --gguf FILE --tokenizer FOLDER    # graft the weights under a new tower
    python benchmarks/real_vqa.py split SPLIT --data VQA_RAD                    # which pictures teach, which are left
    python benchmarks/real_vqa.py teach MODEL TAUGHT --data VQA_RAD [--seed 0] [--epochs 8]
    conrad-bench run --config configs/real_vqa.yaml --methods all --model TAUGHT --data-root vqa_rad=SPLIT

FILE is a GGUF file of google/gemma-3-270m (the base model; Gemma terms), FOLDER the tokenizer of a Gemma 3 with images,
VQA_RAD the data as `vqa_rad.form=mevf` takes them. A tower of some three million weights starts at random: it learns to
tell head, chest and abdomen first, then tower, projector and decoder learn the questions.

Nothing is taught about a picture of the test or validation split. Of the task's training pictures one half teaches the
model; the other half is left, with its questions, to the methods that learn: on questions that the model was taught it
is right nearly always, and whoever learns a confidence there learns to be sure. SPLIT is VQA-RAD without the taught
questions. Half of the answers are taught behind the question alone, half behind the request for a confidence, and then
with a number drawn at random: the model learns the form, and nothing about when it is right.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from conrad_bench.types import Example

SIZE, PATCH, PICTURE_TOKENS = 224, 14, 16
"""Pixels of a picture's side, of a patch's, and the tokens that the language model reads of a picture."""
ORGANS = ("HEAD", "CHEST", "ABD")
KEEP_EVERY = 120.0
"""Seconds between two checkpoints of a teaching."""


class Absent(Exception):  # noqa: N818 - not an error: the files or packages are not on this machine
    """What is needed is not here."""


def build(out: Path, gguf: Path, tokenizer_folder: Path) -> None:
    """Write the checkpoint. Raises Absent where a file or the package gguf is missing."""
    import importlib.util

    for path in (gguf, tokenizer_folder / "tokenizer.json"):
        if not path.exists():
            raise Absent(f"{path} is not there")
    if importlib.util.find_spec("gguf") is None:
        raise Absent("the package gguf is not installed (pip install gguf)")
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3ImageProcessorPil,
        Gemma3Processor,
        Gemma3TextConfig,
        SiglipVisionConfig,
    )

    torch.manual_seed(0)
    # The tokenizer that transformers derives from the GGUF file has other merges and no <bos>.
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    word = tokenizer.convert_tokens_to_ids
    language = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    kept = {
        key: value
        for key, value in language.config.to_dict().items()
        if key not in ("quantization_config", "model_type", "architectures", "transformers_version", "_name_or_path")
    }
    config = Gemma3Config(
        text_config=Gemma3TextConfig(**{**kept, "vocab_size": 262208}),
        vision_config=SiglipVisionConfig(
            hidden_size=192,
            intermediate_size=768,
            num_hidden_layers=6,
            num_attention_heads=6,
            image_size=SIZE,
            patch_size=PATCH,
            vision_use_head=False,
        ),
        mm_tokens_per_image=PICTURE_TOKENS,
        boi_token_index=word("<start_of_image>"),
        eoi_token_index=word("<end_of_image>"),
        image_token_index=word("<image_soft_token>"),
        eos_token_id=[word("<eos>"), word("<end_of_turn>")],
    )
    model = Gemma3ForConditionalGeneration(config)
    state = model.state_dict()
    with torch.no_grad():
        for name, value in language.state_dict().items():
            place = next(p for p in (name.replace("model.", "model.language_model.", 1), name) if p in state)
            state[place][: len(value)] = value  # the words for pictures have no row in the file
    model.tie_weights()
    # Zeros by default, through which no gradient would come to the tower.
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.02)
    images = Gemma3ImageProcessorPil(
        size={"height": SIZE, "width": SIZE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        resample=2,
        do_pan_and_scan=False,
    )
    processor = Gemma3Processor(
        image_processor=images,
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
        image_seq_length=PICTURE_TOKENS,
    )
    model.to(torch.bfloat16).save_pretrained(out)
    processor.save_pretrained(out)
    tower = sum(p.numel() for p in model.model.vision_tower.parameters())
    whole = sum(p.numel() for p in model.parameters())
    print(f"{whole / 1e6:.1f} million weights, {tower / 1e6:.1f} of them the tower, in {out}")


def examples(data: Path) -> dict[str, list[Example]]:
    """Return the questions that teach, those that are left of the training split, and those that validate."""
    from conrad_bench.tasks.vqa_rad import VqaRad

    found = VqaRad(form="mevf").load(data).examples
    train = [example for example in found if example.split == "train"]
    return {
        "teach": [example for example in train if _teaches(example)],
        "left": [example for example in train if not _teaches(example)],
        "validate": [example for example in found if example.split == "validate"],
    }


def _teaches(example: Example) -> bool:
    """Whether an example's picture is of the half that teaches, by a digest of its name."""
    return hashlib.sha256(f"teach {example.cluster}".encode()).digest()[0] % 2 == 0


def split(data: Path, out: Path) -> None:
    """Write VQA-RAD without the questions that teach; its pictures are a link."""
    taught = {example.id for example in examples(data)["teach"]}
    (out / "mevf").mkdir(parents=True, exist_ok=True)
    rows = json.loads((data / "mevf" / "trainset.json").read_bytes())
    rest = [row for row in rows if str(row["qid"]) not in taught]
    (out / "mevf" / "trainset.json").write_text(json.dumps(rest, indent=1))
    (out / "mevf" / "testset.json").write_bytes((data / "mevf" / "testset.json").read_bytes())
    if not (out / "images").is_symlink():
        (out / "images").symlink_to((data / "images").absolute(), target_is_directory=True)
    print(f"{len(rows) - len(rest)} of {len(rows)} training questions teach; the others are in {out}")


def teach(model: str, out: Path, data: Path, seed: int, epochs: float, batch: int) -> None:
    """Teach the questions, and write the checkpoint with `teaching.json`, how it went. Goes on from a checkpoint."""
    import torch

    from conrad_bench.engines.loading import load
    from conrad_bench.storage import write_text

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(seed)
    network, processor = load(model, None, torch.float32, device, "none")
    lessons = _Lessons(network, processor, examples(data), seed, batch)
    steps = math.ceil(len(lessons.rows["teach"]) * epochs / batch)
    warm = max(1, steps // 2)
    print(
        f"{len(lessons.rows['teach'])} questions teach, {steps} steps of {batch} after {warm} of the tower alone",
        file=sys.stderr,
    )
    kept = out.with_name(f"{out.name}.part")
    # What sees starts at random and learns faster than what can read already.
    sees = [p for n, p in network.named_parameters() if "language_model" not in n and "lm_head" not in n]
    reads = [p for n, p in network.named_parameters() if "language_model" in n and "embed" not in n]
    head = torch.nn.Linear(network.config.text_config.hidden_size, len(ORGANS)).to(device)
    network.requires_grad_(False)
    first = _Course([([*sees, *head.parameters()], 1e-3)], warm, kept / "tower")
    for step in first.steps("tower"):
        first.learn(step, lessons.organs(step, head))
    second = _Course([(sees, 3e-4), (reads, 5e-5)], steps, kept / "all")
    for step in second.steps("questions"):
        second.learn(step, lessons.answers(step))
    report = {
        "seed": seed,
        "epochs": epochs,
        "batch": batch,
        "steps": steps,
        "questions": {name: len(rows) for name, rows in lessons.rows.items()},
        "loss": {"tower": first.losses[-1], "questions": second.losses[-1]},
        # A token's mean loss on pictures that nobody taught, and with grey ones in their place.
        "validation_loss": {name: lessons.validation_loss(grey) for name, grey in (("seen", False), ("grey", True))},
    }
    network.to(torch.bfloat16).save_pretrained(out)
    processor.save_pretrained(out)
    write_text(out / "teaching.json", json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


class _Lessons:
    """Batches of questions and pictures, the same ones for every process with one seed."""

    def __init__(self, network: Any, processor: Any, rows: dict[str, list[Example]], seed: int, batch: int) -> None:
        from conrad_bench.engines.inputs import encode
        from conrad_bench.tasks.vqa_rad import VqaRad

        self.rows, self._network, self._processor = rows, network, processor
        self._seed, self._batch = seed, batch
        task = VqaRad(form="mevf")
        self._encoded = {
            (example.id, elicit): encode(processor, task.prompt(example, elicit))
            for name in ("teach", "validate")
            for example in rows[name]
            for elicit in (None, "confidence")
        }

    def organs(self, step: int, head: Any) -> torch.Tensor:
        """Return the loss of telling the organ by the picture alone."""
        import torch

        pictures = {row.cluster: row for row in self.rows["teach"]}
        draw = random.Random(f"{self._seed} organs {step}")
        chosen = draw.choices([pictures[name] for name in sorted(pictures)], k=2 * self._batch)
        pixels = torch.cat([self._encoded[row.id, None].features["pixel_values"] for row in chosen])
        pixels = _moved(pixels.to(self._network.device), step)
        with self._fast():
            features = self._network.model.get_image_features(pixels).pooler_output
            logits = head(features.float().mean(1))
        organs = [ORGANS.index(str(row.attributes["organ"])) for row in chosen]
        return torch.nn.functional.cross_entropy(logits.float(), torch.tensor(organs, device=logits.device))

    def answers(self, step: int) -> torch.Tensor:
        """Return the mean loss of the answers' tokens in a batch."""
        rows = self.rows["teach"]
        places = range(step * self._batch, (step + 1) * self._batch)
        chosen = [rows[self._order(place // len(rows))[place % len(rows)]] for place in places]
        draw = random.Random(f"{self._seed} confidences {step}")
        stated = [draw.randint(0, 10) if draw.random() < 0.5 else None for _ in chosen]
        return self._loss(chosen, stated, lambda pixels: _moved(pixels, step))

    def validation_loss(self, grey: bool) -> float:
        """Return the mean loss of the answers to validation questions, asked for no confidence."""
        import torch

        found = []
        rows = self.rows["validate"]
        with torch.no_grad():
            for start in range(0, len(rows), self._batch):
                part = rows[start : start + self._batch]
                loss = self._loss(part, [None] * len(part), torch.zeros_like if grey else lambda pixels: pixels)
                found.append(loss.item() * len(part))
        return sum(found) / len(rows)

    def _order(self, epoch: int) -> list[int]:
        return random.Random(f"{self._seed} order {epoch}").sample(
            range(len(self.rows["teach"])), len(self.rows["teach"])
        )

    def _loss(self, rows: Sequence[Example], stated: Sequence[int | None], seen: Any) -> torch.Tensor:
        import torch

        from conrad_bench.engines.inputs import collate, tokenize
        from conrad_bench.reading.elicitation import MARKER

        tokenizer = self._processor.tokenizer
        end = tokenizer.convert_tokens_to_ids("<end_of_turn>")
        answers, whole = [], []
        for row, number in zip(rows, stated, strict=True):
            text = row.reference[:1].upper() + row.reference[1:]  # the data write yes and Yes
            text += "" if number is None else f"\n{MARKER} {number}"
            answers.append([*tokenize(tokenizer, text), end])
            asked = self._encoded[row.id, None if number is None else "confidence"]
            whole.append(asked.followed_by(answers[-1]))
        inputs = collate(whole, tokenizer.pad_token_id, True, self._network.device, torch.float32)
        inputs["pixel_values"] = seen(inputs["pixel_values"])
        with self._fast():
            states = self._network.model(**inputs, use_cache=False).last_hidden_state
            # Padded on the left; a token is predicted at the place before it.
            read = torch.cat([row[-len(ids) - 1 : -1] for row, ids in zip(states, answers, strict=True)])
            logits = self._network.lm_head(read)
        wanted = torch.tensor([i for ids in answers for i in ids], device=logits.device)
        return torch.nn.functional.cross_entropy(logits.float(), wanted)

    def _fast(self) -> Any:
        import torch

        kind = self._network.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda")


def _moved(pixels: torch.Tensor, seed: int) -> torch.Tensor:
    """Return pictures (n, 3, side, side) turned, shifted, scaled and brightened a little: never mirrored."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    n = len(pixels)
    angle, grow, light, contrast = (2 * torch.rand(4, n, generator=draw) - 1).unbind()
    shift = 0.1 * (2 * torch.rand(n, 2, generator=draw) - 1)
    angle, grow = 0.15 * angle, 1 + 0.15 * grow
    cos, sin = grow * angle.cos(), grow * angle.sin()
    matrix = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = torch.nn.functional.affine_grid(matrix, list(pixels.shape), align_corners=False).to(pixels.device)
    found = torch.nn.functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    light, contrast = 0.15 * light, 1 + 0.2 * contrast
    return found * contrast.to(found)[:, None, None, None] + light.to(found)[:, None, None, None]


class _Course:
    """The steps of one training: AdamW with a warm-up and half a cosine, and checkpoints of it."""

    def __init__(self, groups: list[tuple[list[Any], float]], steps: int, folder: Path) -> None:
        import torch

        self._parameters = [parameter for parameters, _ in groups for parameter in parameters]
        self._rates = [rate for _, rate in groups]
        self._steps, self._folder = steps, folder
        for parameter in self._parameters:
            parameter.requires_grad_(True)
        self._optimizer = torch.optim.AdamW([{"params": parameters} for parameters, _ in groups], weight_decay=0.01)
        self.losses: list[float] = []
        self._kept = time.monotonic()

    def steps(self, name: str) -> Iterator[int]:
        """Yield the steps that are left, and say every tenth part how it goes."""
        begun = self._resume()
        start = time.monotonic()
        for step in range(begun, self._steps):
            yield step
            if (step + 1) % max(1, self._steps // 10) == 0 or step == begun:
                taken = time.monotonic() - start
                left = taken / (step + 1 - begun) * (self._steps - step - 1)
                print(
                    f"{name}: step {step + 1} of {self._steps}, loss {self.losses[-1]:.3f}, {left:.0f} s left",
                    file=sys.stderr,
                    flush=True,
                )
        if begun < self._steps:
            self._keep(self._steps)

    def learn(self, step: int, loss: torch.Tensor) -> None:
        """Take one step."""
        import torch

        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        rise = min(1.0, (step + 1) / max(1, self._steps // 20))
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * rise * (1 + math.cos(math.pi * step / self._steps)) / 2
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.losses.append(loss.item())
        if time.monotonic() - self._kept > KEEP_EVERY:
            self._keep(step + 1)

    def _keep(self, done: int) -> None:
        """Write weights and moments, whole or not at all."""
        from safetensors.torch import save_file

        tensors = {}
        for i, parameter in enumerate(self._parameters):
            tensors[f"{i}.weight"] = parameter.data
            for name in ("exp_avg", "exp_avg_sq", "step"):
                tensors[f"{i}.{name}"] = self._optimizer.state[parameter][name]
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, f"{self._folder}.new", {"done": str(done), "loss": repr(self.losses[-1])})
        os.replace(f"{self._folder}.new", f"{self._folder}.safetensors")
        self._kept = time.monotonic()

    def _resume(self) -> int:
        """Take up what is kept, and return how many steps are done."""
        from safetensors import safe_open

        path = Path(f"{self._folder}.safetensors")
        if not path.is_file():
            return 0
        with safe_open(path, "pt") as file:
            for i, parameter in enumerate(self._parameters):
                parameter.data.copy_(file.get_tensor(f"{i}.weight"))
                moments = {name: file.get_tensor(f"{i}.{name}") for name in ("exp_avg", "exp_avg_sq", "step")}
                self._optimizer.state[parameter] = {
                    name: value if name == "step" else value.to(parameter.device) for name, value in moments.items()
                }
            about = file.metadata()
        self.losses.append(float(about["loss"]))
        return int(about["done"])


def main() -> None:
    """Do one part; where something is not on this machine, say so and end with 0."""
    parser = argparse.ArgumentParser(description="A real language model on real questions.")
    parts = parser.add_subparsers(dest="part", required=True)
    building = parts.add_parser("build")
    building.add_argument("out", type=Path)
    building.add_argument("--gguf", type=Path, required=True)
    building.add_argument("--tokenizer", type=Path, required=True)
    splitting = parts.add_parser("split")
    splitting.add_argument("out", type=Path)
    splitting.add_argument("--data", type=Path, required=True)
    teaching = parts.add_parser("teach")
    teaching.add_argument("model")
    teaching.add_argument("out", type=Path)
    teaching.add_argument("--data", type=Path, required=True)
    teaching.add_argument("--seed", type=int, default=0)
    teaching.add_argument("--epochs", type=float, default=8)
    teaching.add_argument("--batch", type=int, default=16)
    given = vars(parser.parse_args())
    part = {"build": build, "split": split, "teach": teach}[given.pop("part")]
    if "tokenizer" in given:
        given["tokenizer_folder"] = given.pop("tokenizer")
    try:
        part(**given)
    except Absent as reason:
        print(f"skipped: {reason}")


if __name__ == "__main__":
    main()
