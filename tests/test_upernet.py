"""The UperNet of docs/segmentation.md, its text run as it stands on a small export."""

import re
from pathlib import Path

import timm
import torch
from timm.models import save_for_hf

from online_synclr.paths import PROJECT_DIR


def documented_code(export: Path) -> str:
    text = (PROJECT_DIR / "docs" / "segmentation.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    smaller = {
        r'EXPORT, IMAGE_PX, NUM_CLASSES = "exports/vitb16", 512, 150': (
            f'EXPORT, IMAGE_PX, NUM_CLASSES = "{export}", 128, 3'
        ),
        r"LAYERS = \[3, 5, 7, 11\]": "LAYERS = [0, 1, 2, 3]",
    }
    for pattern, replacement in smaller.items():
        code, count = re.subn(pattern, replacement, code)
        assert count == 1, f"docs/segmentation.md has no {pattern}"
    return code


def test_the_documented_upernet_learns(tmp_path: Path) -> None:
    torch.manual_seed(0)
    arguments = {"img_size": 64, "depth": 4, "embed_dim": 24, "num_heads": 2}
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, **arguments)
    save_for_hf(vit, tmp_path, model_args=arguments)

    names: dict[str, object] = {}
    exec(documented_code(tmp_path), names)
    model, train_step = names["model"], names["train_step"]
    assert isinstance(model, torch.nn.Module)
    assert callable(train_step)
    loaded = model.get_parameter("backbone.vit.model.blocks.2.mlp.fc1.weight")
    assert torch.equal(loaded, vit.blocks[2].mlp.fc1.weight)

    images = torch.randn(2, 3, 128, 128)
    labels = (images[:, 0] > 0).long()
    labels[:, :10] = 255
    logits = model(pixel_values=images).logits
    assert logits.shape == (2, 3, 128, 128)
    losses = [train_step(images, labels) for _ in range(6)]
    assert losses[-1] < losses[0]
