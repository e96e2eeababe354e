"""Write a checkpoint of MedGemma 4B's shape with random weights: the size of the real model without its access.

    python benchmarks/random_model.py OUT --processor FOLDER [--layers 34]

FOLDER holds the processor (tokenizer, image processor, chat template) of any Gemma 3 with images. What depends on the
size alone is that of the real model: memory, seconds, kernels. What depends on the weights is not: it writes noise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from scale import Shape


def main() -> None:
    """Make the model on the GPU if there is one, in bfloat16, and save it beside the processor."""
    import torch
    from transformers import AutoProcessor, Gemma3Config, Gemma3ForConditionalGeneration

    parser = argparse.ArgumentParser(description="A checkpoint of MedGemma 4B's shape with random weights.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--processor", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=Shape.layers)
    arguments = parser.parse_args()
    shape = Shape(layers=arguments.layers)
    processor = AutoProcessor.from_pretrained(arguments.processor)
    word = processor.tokenizer.convert_tokens_to_ids
    config = Gemma3Config(
        text_config={
            "vocab_size": shape.vocabulary,
            "hidden_size": shape.hidden,
            "intermediate_size": shape.mlp,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.head,
            "query_pre_attn_scalar": shape.head,
            "sliding_window": 1024,
        },
        vision_config={
            "hidden_size": shape.vision_hidden,
            "intermediate_size": shape.vision_mlp,
            "num_hidden_layers": shape.vision_layers,
            "num_attention_heads": 16,
            "image_size": 896,
            "patch_size": 14,
            "vision_use_head": False,
        },
        mm_tokens_per_image=256,
        image_token_index=word("<image_soft_token>"),
        boi_token_index=word("<start_of_image>"),
        eoi_token_index=word("<end_of_image>"),
        eos_token_id=[word("<eos>"), word("<end_of_turn>")],
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Gemma3ForConditionalGeneration(config)
    with torch.no_grad():
        model.model.multi_modal_projector.mm_input_projection_weight.normal_(0, 0.02)
    model.save_pretrained(arguments.out)
    processor.save_pretrained(arguments.out)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e9:.2f} billion weights in {arguments.out}")


if __name__ == "__main__":
    main()
