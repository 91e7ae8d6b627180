"""Settings of runs that two cores carry easily: synthetic engines, very small pictures and ViT."""

from typing import Final

ENGINES: Final = (
    "captions.backend=template",
    "captions.queue_captions=64",
    "images.backend=synthetic",
    "images.render_px=32",
    "images.send_px=32",
)
TRAINING: Final = (
    "trainer.batch_groups=16",
    "trainer.crops={global_px: 32, local_px: 16}",
    "trainer.backbone_args={patch_size: 8, embed_dim: 48, depth: 2, num_heads: 3}",
    "trainer.contrastive={projector_hidden: 64, predictor_hidden: 64, out_dim: 32}",
    "trainer.mim={prototypes: 64, hidden: 64, bottleneck: 32}",
    "monitor.knn_folder=''",
    "monitor.samples_every_steps=0",
)
