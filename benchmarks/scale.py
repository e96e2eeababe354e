"""What a run takes at real size: measured where a CPU can measure it, computed where it cannot.

    python benchmarks/scale.py

- a chest film of 2544 x 3056 pixels, opened and prepared at 896 pixels
- one decoder layer of MedGemma 4B's language model, with random weights: a prompt of three images, the keys and values
  that it leaves, and the eleven confidences behind them, as eleven copies and as a tree
- the memory of MedGemma 4B under each trainer at its defaults (`Memory`: the formulas)

It prints Markdown tables for docs/gpu.md. benchmarks/real_model.py has the steps of the trainers on a real model.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GIB, MIB = 2**30, 2**20
FILM = (2544, 3056)
IMAGES, IMAGE_TOKENS, PROMPT_TOKENS, REPORT_TOKENS = 3, 256, 100, 300
MARKER, TREE = 4, 16
"""Tokens of the confidence marker; of marker, eleven levels ("10" has two tokens) in one row."""
COPY = MARKER + 2
"""Tokens of the marker and the longest level in a row of its own."""


@dataclass(frozen=True)
class Shape:
    """A Gemma 3 with images. The defaults are MedGemma 4B's, as its model card and Gemma 3's report give them."""

    layers: int = 34
    hidden: int = 2560
    mlp: int = 10240
    heads: int = 8
    kv_heads: int = 4
    head: int = 256
    vocabulary: int = 262_208
    vision_layers: int = 27
    vision_hidden: int = 1152
    vision_mlp: int = 4304
    patches: int = 4096

    @property
    def queries(self) -> int:
        """Width of the queries."""
        return self.heads * self.head

    @property
    def keys(self) -> int:
        """Width of the keys, and of the values."""
        return self.kv_heads * self.head

    @property
    def projections(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of the seven linear maps of a layer: q, k, v, o, gate, up, down."""
        h, q, k, m = self.hidden, self.queries, self.keys, self.mlp
        return [(h, q), (h, k), (h, k), (q, h), (h, m), (h, m), (m, h)]

    def layer_weights(self) -> int:
        """Weights of a decoder layer's linear maps: H Q + 2 H K + Q H + 3 H M."""
        return sum(a * b for a, b in self.projections)

    def vision_weights(self) -> int:
        """Weights of the vision tower (4 V^2 + 2 V M a layer, patches of 14 x 14 x 3, positions) and the projector."""
        v = self.vision_hidden
        return self.vision_layers * (4 * v * v + 2 * v * self.vision_mlp) + (588 + self.patches + self.hidden) * v

    def lora_weights(self, rank: int) -> int:
        """Weights of a LoRA on the language model: rank (inputs + outputs) for each linear map."""
        return self.layers * rank * sum(a + b for a, b in self.projections)


@dataclass(frozen=True)
class Memory:
    """The memory of a training on one GPU, in bytes. bfloat16 takes 2 bytes a number, float32 takes 4."""

    shape: Shape = Shape()
    tokens: int = 1100
    """Tokens of a study with three images: prompt, images and report."""

    def weights(self, nf4: bool) -> float:
        """2 bytes a weight; with nf4, decoder layers take 4 bits and a float32 scale for each 64: 0.5625 bytes."""
        s = self.shape
        rest = s.vision_weights() + s.vocabulary * s.hidden  # the head is the embedding
        return s.layers * s.layer_weights() * (0.5625 if nf4 else 2) + 2 * rest

    def adapter(self, rank: int = 16) -> float:
        """LoRA weights, gradients and Adam's two moments, all float32: 16 bytes a weight."""
        return 16 * self.shape.lora_weights(rank)

    def keys_and_values(self, tokens: int | None = None) -> float:
        """Of one row: 2 (keys, values) x layers x kv heads x head size x 2 bytes a token.

        A sliding window of 1024 tokens would save 6 % at 1,100 tokens, and is left out.
        """
        return 2 * self.shape.layers * self.shape.keys * 2 * (tokens or self.tokens)

    def kept_for_attention(self) -> float:
        """Of one row that continues a prefix with gradient: the prefix's keys and values once more, joined with the new
        ones in the cache, and twice more, repeated for 8 query heads, for the backward pass."""
        return self.keys_and_values() * (1 + self.shape.heads / self.shape.kv_heads)

    def kept_by_a_layer(self) -> float:
        """Bytes that one layer keeps of one token for its backward pass, without the prefix's keys and values.

        4 (8 H + M + 2 Q + 2 K) float32, since norms compute in float32 and the LoRA's branch does, and
        2 (3 M + 2 Q + 2 K) bfloat16.
        """
        s = self.shape
        return 4 * (8 * s.hidden + s.mlp + 2 * s.queries + 2 * s.keys) + 2 * (3 * s.mlp + 2 * s.queries + 2 * s.keys)

    def activations(self, tokens: int, checkpointing: bool = False) -> float:
        """All layers' kept bytes; with gradient checkpointing each layer's input, and one layer's bytes at a time."""
        if checkpointing:
            return tokens * (2 * self.shape.hidden * self.shape.layers + self.kept_by_a_layer())
        return tokens * self.shape.layers * self.kept_by_a_layer()

    def logits(self, positions: int) -> float:
        """Logits in bfloat16 and float32, their log-softmax and its gradient in float32: 14 bytes a word."""
        return positions * self.shape.vocabulary * 14

    def prefill(self, rows: int) -> float:
        """Working space of a pass without gradient: three MLP-wide arrays of all rows' tokens, in bfloat16; or, if that
        is more, the same of the vision tower with two arrays, for three images a row."""
        s = self.shape
        return max(rows * self.tokens * 3 * s.mlp * 2, rows * IMAGES * s.patches * 2 * s.vision_mlp * 2)

    def rows(self, prefixes: int, rows: int, tokens: int, logits: int) -> float:
        """What a conditional step adds to weights and adapter: the prefixes' keys and values, `rows` of them continued
        by `tokens` tokens each, of which `logits` have logits; or the prefill, if that is more."""
        cache = prefixes * self.keys_and_values()
        step = rows * self.kept_for_attention() + self.activations(rows * tokens) + self.logits(rows * logits)
        return cache + max(step, self.prefill(prefixes))

    def joint(self, rollouts: int) -> float:
        """What a joint step adds: whole rows with gradient and checkpointing, and logits of three tokens a row; or the
        rollouts' keys and values, if they are more. The tower keeps nothing: no weight of it is trained."""
        step = self.activations(rollouts * self.tokens, checkpointing=True) + self.logits(3 * rollouts)
        return max(step + self.kept_for_attention() / self.shape.layers * rollouts, rollouts * self.keys_and_values())


def memory_table() -> list[str]:
    """Return the Markdown rows of each trainer at its defaults, and of joint GRPO with one group a pass.

    A training fits where it leaves 5 % of the GPU and 1 GiB more for CUDA itself: said for nf4, then for bfloat16. The
    last column is what a step adds where each answer (or rollout) has a copy of its report's keys and values.
    """
    from conrad_bench.trainers.settings import GRPOSettings, LevelSettings

    grpo, levels, memory = GRPOSettings(), LevelSettings(), Memory()
    groups = grpo.batch_size // grpo.generations
    n = levels.batch_size
    one_row = memory.rows(n, n, TREE, TREE)
    copies = memory.rows(n, 11 * n, COPY, 3)
    trainers = {
        f"conditional GRPO, {grpo.batch_size} rollouts of {groups} claims": (
            memory.rows(groups, groups, TREE, TREE),
            memory.rows(groups, grpo.batch_size, COPY, 5),
        ),
        f"conrad_exact, {n} claims": (one_row, copies),
        f"sft, {n} claims": (one_row, copies),
        f"joint GRPO, {grpo.batch_size} rollouts": (memory.joint(grpo.batch_size), memory.joint(grpo.batch_size)),
        f"joint GRPO, {grpo.generations} rollouts": (memory.joint(grpo.generations), memory.joint(grpo.generations)),
    }
    lines = [
        "| trainer (GiB) | a step adds | in all, nf4 | in all, bfloat16 | 44 GiB | 80 GiB | a step with copies |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, (adds, before) in trainers.items():
        totals = [(memory.weights(nf4) + memory.adapter() + adds) / GIB for nf4 in (True, False)]
        fits = [" / ".join("yes" if total + 1 < gpu * 0.95 else "no" for total in totals) for gpu in (44, 80)]
        cells = [f"{adds / GIB:.1f}", *(f"{total:.1f}" for total in totals), *fits, f"{before / GIB:.1f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def seconds(run: Callable[[], Any], repeat: int = 3) -> float:
    """Return the median wall time."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def film_rows() -> list[tuple[str, str, str]]:
    """Open a film and prepare it at 896 pixels, as an engine does."""
    from PIL import Image
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    from conrad_bench.engines.opening import open_image
    from conrad_bench.tasks.phantom import render, world

    study = next(world.studies(1, 0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.jpg"
        Image.fromarray(render.film(render.frontal(study), FILM, study)).save(path, format="JPEG", quality=95)
        size = path.stat().st_size
        opening = seconds(lambda: open_image(str(path)))
        image = open_image(str(path))
    processor = Gemma3ImageProcessorPil(size={"height": 896, "width": 896}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    preparing = seconds(lambda: processor(image, return_tensors="pt"))
    prepared = processor(image, return_tensors="pt")["pixel_values"]
    width, height = FILM
    name = f"a film of {width} x {height}"
    return [
        (f"{name}: JPEG", "-", f"{size / MIB:.1f} MiB"),
        (f"{name}: opened (RGB)", f"{3 * width * height / MIB:.1f} MiB", f"{opening:.2f} s"),
        (f"{name}: at 896 pixels (float32)", f"{3 * 896 * 896 * 4 / MIB:.1f} MiB", f"{prepared.nbytes / MIB:.1f} MiB"),
        (f"{name}: time of preparing it", "-", f"{preparing:.2f} s"),
    ]


def decoder(kind: str, dtype: Any) -> Any:
    """Return one decoder layer of MedGemma 4B's shape under a LoRA of rank 16, with random weights."""
    from peft import LoraConfig, get_peft_model
    from transformers import Gemma3TextConfig, Gemma3TextModel

    s = Shape()
    config = Gemma3TextConfig(
        vocab_size=64,
        hidden_size=s.hidden,
        intermediate_size=s.mlp,
        num_hidden_layers=1,
        num_attention_heads=s.heads,
        num_key_value_heads=s.kv_heads,
        head_dim=s.head,
        sliding_window=1024,
        layer_types=[kind],
        pad_token_id=0,
    )
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return get_peft_model(Gemma3TextModel(config).to(dtype), LoraConfig(r=16, target_modules=names))


def continued(model: Any, prefix: Any, rows: int, tokens: int) -> tuple[float, int]:
    """Continue copies of a prefix by tokens, with gradient; return seconds, and bytes kept for the backward pass."""
    import torch

    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}
    alive = []

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # so that no address is used twice
        return tensor

    cache, length = copy.deepcopy(prefix), prefix.get_seq_length() if prefix is not None else 0
    if cache is not None:
        cache.batch_select_indices(torch.zeros(rows, dtype=torch.long))
    # A tree's mask has the shape of this one; which of its entries are open changes neither time nor memory.
    mask = torch.ones(rows, 1, tokens, length + tokens, dtype=torch.bool).tril(length)
    inputs = torch.randn(rows, tokens, Shape().hidden, dtype=next(model.parameters()).dtype) / 50
    start = time.perf_counter()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = model(
            inputs_embeds=inputs,
            attention_mask={"full_attention": mask, "sliding_attention": mask},
            position_ids=(length + torch.arange(tokens))[None].expand(rows, -1),
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
    out.float().square().sum().backward()
    return time.perf_counter() - start, sum(kept.values())


def layer_rows() -> list[tuple[str, str, str]]:
    """Time one layer and count its bytes."""
    import torch

    memory, s = Memory(), Shape()
    tokens = IMAGES * IMAGE_TOKENS + PROMPT_TOKENS + REPORT_TOKENS
    found = []
    torch.manual_seed(0)
    for kind in ("sliding_attention", "full_attention"):
        model = decoder(kind, torch.float32)
        inputs = torch.randn(1, tokens, s.hidden) / 50
        with torch.no_grad():
            took = seconds(lambda m=model, x=inputs: m(inputs_embeds=x, use_cache=True))
            prefix = model(inputs_embeds=inputs, use_cache=True).past_key_values
        length = min(tokens, 1023) if kind == "sliding_attention" else tokens
        held = prefix.layers[0].keys.nbytes + prefix.layers[0].values.nbytes
        name = f"a layer ({kind.partition('_')[0]}), {tokens:,} tokens, float32"
        gflop = 2 * s.layer_weights() * tokens / 1e9
        found.append((f"{name}: forward", f"{gflop:,.0f} GFLOP in its linear maps", f"{took:.2f} s"))
        found.append((f"{name}: keys and values", f"{2 * s.keys * 4 * length / MIB:.2f} MiB", f"{held / MIB:.2f} MiB"))
    expanded = 2 * s.queries * 4
    for name, rows, more in (("eleven copies", 11, COPY), ("one row, a tree", 1, TREE)):
        continued(model, prefix, rows, more)  # warm
        took, kept = continued(model, prefix, rows, more)
        computed = rows * (tokens + more) * expanded
        found.append(
            (
                f"the eleven answers as {name} ({rows} x {more} tokens): forward and backward of a layer",
                f"more than {computed / MIB:.0f} MiB kept",
                f"{kept / MIB:.0f} MiB kept, {took:.2f} s",
            )
        )
    more = 256
    _, kept = continued(decoder("full_attention", torch.bfloat16), None, 1, more)
    found.append(
        (
            "kept by a layer of one token with gradient, bfloat16 with a float32 LoRA",
            f"{memory.kept_by_a_layer() / 1024:.0f} KiB",
            f"{kept / more / 1024:.0f} KiB",
        )
    )
    return found


def main() -> None:
    """Print the tables."""
    argparse.ArgumentParser(description="What a run takes at real size.").parse_args()
    memory = Memory()
    s = memory.shape
    print("| what | computed | measured |")
    print("| --- | --- | --- |")
    for row in (*film_rows(), *layer_rows()):
        print(f"| {' | '.join(row)} |", flush=True)
    weights = s.layers * s.layer_weights() + s.vision_weights() + s.vocabulary * s.hidden
    print(
        f"\nMedGemma 4B has {weights / 1e9:.2f} billion weights: {memory.weights(True) / GIB:.1f} GiB in nf4, "
        f"{memory.weights(False) / GIB:.1f} GiB in bfloat16. A LoRA of rank 16 with its gradients and Adam's moments "
        f"takes {memory.adapter() / GIB:.2f} GiB. Keys and values take {memory.keys_and_values(1) / 1024:.0f} KiB a "
        f"token, {memory.keys_and_values() / MIB:.0f} MiB a study of {memory.tokens:,} tokens.\n"
    )
    print("\n".join(memory_table()))


if __name__ == "__main__":
    main()
