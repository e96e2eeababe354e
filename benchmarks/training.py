"""What ConRad's joint step saves by computing only what its loss needs: time and memory beside TRL's own path.

    python benchmarks/training.py [--vocabulary 262144] [--tokens 200] [--rollouts 16] [--repeat 5]

One step is the loss of a batch of rollouts and its gradient with respect to a LoRA adapter, on a Gemma3 with random
weights: by default a small one with the vocabulary of the real ones, whose head is what is saved, and images of 224
pixels. Each line is a process of its own, so that peak memory is its own. On a machine with a GPU it runs there, in
bfloat16. Losses and gradient norms must agree; the script stops if they do not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

PATHS = {
    "TRL's own": (False, False),
    "head on the confidence tokens": (True, False),
    "and each image seen once": (True, True),
}
IMAGE_TOKEN = 5


def network(vocabulary: int, once: bool) -> Any:
    """Return a Gemma3 under a LoRA adapter, with random weights that depend on the seed alone."""
    import torch
    from peft import get_peft_model
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration
    from trl.trainer.utils import add_fused_lm_head

    from conrad_bench.engines.images import see_images_once
    from conrad_bench.trainers.adapters import language_lora

    torch.manual_seed(0)
    text = {
        "vocab_size": vocabulary,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 3,
        "image_size": 224,
        "patch_size": 14,
    }
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=64, image_token_id=IMAGE_TOKEN)
    model = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.02)
    if once:
        see_images_once(model)
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    adapted = get_peft_model(model, language_lora(model, 16, None))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    cuda = torch.cuda.is_available()
    return adapted.to("cuda", torch.bfloat16) if cuda else adapted


def batch(vocabulary: int, rollouts: int, tokens: int, group: int, device: Any, dtype: Any) -> dict[str, Any]:
    """Return rollouts in groups that share a prompt with one image: random tokens, two confidence tokens in each."""
    import torch

    draw = torch.Generator().manual_seed(1)
    head = [2, *[IMAGE_TOKEN] * 64, *torch.randint(10, vocabulary, (60,), generator=draw).tolist()]
    prompt = torch.tensor([head] * rollouts)
    completion = torch.randint(10, vocabulary, (rollouts, tokens), generator=draw)
    pixels = torch.randn(rollouts // group, 3, 224, 224, generator=draw).repeat_interleave(group, 0)
    mask = torch.zeros(rollouts, tokens, dtype=torch.long)
    mask[:, -2:] = 1
    ids = torch.cat([prompt, completion], 1)
    return {
        "input_ids": ids.to(device),
        "attention_mask": torch.ones_like(ids).to(device),
        "token_type_ids": (ids == IMAGE_TOKEN).long().to(device),
        "pixel_values": pixels.to(device, dtype),
        "mask": mask.to(device),
        "advantages": torch.randn(rollouts, 1, generator=draw).to(device),
    }


def measure(path: str, vocabulary: int, rollouts: int, tokens: int, repeat: int) -> dict[str, float]:
    """Return loss, gradient norm, median seconds of a step, and peak memory in MiB, of one path."""
    import resource

    import torch
    from trl import GRPOTrainer

    from conrad_bench.trainers.head import MaskedHead

    masked, once = PATHS[path]
    model = network(vocabulary, once)
    weight = next(model.parameters())
    given = batch(vocabulary, rollouts, tokens, 8, weight.device, weight.dtype)
    mask, advantages = given.pop("mask"), given.pop("advantages")
    trainer = SimpleNamespace(accelerator=SimpleNamespace(autocast=nullcontext, is_main_process=True))
    cuda = weight.device.type == "cuda"
    seconds: list[float] = []
    for _ in range(repeat + 1):
        model.zero_grad()
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        scorer = MaskedHead(model, model, mask, 1.0) if masked else model
        logps = GRPOTrainer._get_per_token_logps_and_entropies(
            trainer, scorer, logits_to_keep=tokens, compute_entropy=True, num_images=[1] * rollouts, **given
        )[0]
        loss = -((logps * advantages * mask).sum(1) / mask.sum(1)).mean()
        loss.backward()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    squares = [p.grad.float().square().sum() for p in model.parameters() if p.grad is not None]
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else kib / 1024
    return {
        "loss": loss.item(),
        "norm": float(torch.stack(squares).sum().sqrt()),
        "seconds": statistics.median(seconds[1:]),
        "peak": peak,
        "weights": sum(p.numel() for p in model.parameters()) * weight.element_size() / 2**20,
    }


def main() -> None:
    """Measure every path in a process of its own and print the table."""
    parser = argparse.ArgumentParser(description="Time and memory of a joint ConRad step.")
    parser.add_argument("--vocabulary", type=int, default=262_144)
    parser.add_argument("--rollouts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--path", choices=PATHS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = (arguments.vocabulary, arguments.rollouts, arguments.tokens, arguments.repeat)
    if arguments.path:
        print(json.dumps(measure(arguments.path, *sizes)))
        return
    print("| a step with | seconds | of TRL's | peak memory (MiB) | loss | gradient norm |")
    print("| --- | --- | --- | --- | --- | --- |")
    first: dict[str, float] = {}
    for path in PATHS:
        done = subprocess.run([sys.executable, *sys.argv, "--path", path], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        found = json.loads(done.stdout.splitlines()[-1])
        first = first or found
        for name in ("loss", "norm"):
            if abs(found[name] - first[name]) > 0.02 * abs(first[name]):
                sys.exit(f"{path}: the {name} is {found[name]}, by TRL's own path {first[name]}")
        cells = [f"{found['seconds']:.3f}", f"{found['seconds'] / first['seconds']:.2f}", f"{found['peak']:,.0f}"]
        print(f"| {path} | {' | '.join(cells)} | {found['loss']:.5f} | {found['norm']:.5f} |", flush=True)


if __name__ == "__main__":
    main()
