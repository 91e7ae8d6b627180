"""What a backbone's blocks keep for the backward pass, with and without `trainer.recompute_blocks`.

    python -m benchmarks.recompute [--config configs/vitb16_8gpu.yaml] [--images 4]

Bytes of all tensors that autograd saves in one forward pass of global crops in bf16, parameters
left out, divided by tokens and blocks. On the CPU; a GPU's kernels keep other intermediates.
"""

import argparse
from pathlib import Path

import torch

from online_synclr.config import load_config
from online_synclr.config.schema import TrainerConfig
from trainer.objective.backbone import build_backbone


def main() -> None:
    """Print both figures and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, default=Path("configs/vitb16_8gpu.yaml"))
    parser.add_argument("--images", type=int, default=4)
    args = parser.parse_args()
    trainer = load_config(args.config).trainer
    kept, recomputed = (kept_bytes(trainer, args.images, on) for on in (False, True))
    print(f"{args.config}: kilobytes a token and block, {torch.__version__}")
    print(
        f"  kept {kept / 1e3:.1f}, recomputed {recomputed / 1e3:.1f}, {kept / recomputed:.1f} times"
    )


def kept_bytes(trainer: TrainerConfig, num_images: int, recompute: bool) -> float:
    """Bytes a token and block."""
    settings = trainer.model_copy(update={"recompute_blocks": recompute})
    backbone = build_backbone(settings, drop_path=trainer.drop_path, mask_token=False).train()
    parameters = {parameter.untyped_storage().data_ptr() for parameter in backbone.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in parameters:
            saved[place] = tensor  # kept alive, so that no other tensor takes its place
        return tensor

    side = trainer.crops.global_px
    images_N3SS = torch.randn((num_images, 3, side, side))
    keep = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with keep, torch.autocast("cpu", torch.bfloat16):
        _, patches_NTE = backbone.forward_tokens(images_N3SS)
    num_bytes = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    return num_bytes / patches_NTE.shape[:2].numel() / len(backbone.vit.blocks)


if __name__ == "__main__":
    main()
