"""kNN accuracy of a backbone on the labelled images of `monitor.knn_folder`, in one process.

A run shares the same measurement out over its trainers (`trainer.shared_knn`).
"""

import torch

from online_synclr.config import Config, ConfigError
from online_synclr.config.schema import DistillationConfig
from trainer.evaluation.features import extract, raw_pixels
from trainer.evaluation.image_folder import LabelledImages, load_images, resolve_folder
from trainer.evaluation.knn import leave_one_out_accuracy
from trainer.objective.backbone import Backbone
from trainer.objective.model import build_model
from trainer.objective.precision import autocast


class KnnProbe:
    """Holds the images, at the size of the model's global crops.

    Raises:
        ConfigError: the folder cannot be read, or holds no more images than neighbours are asked.
    """

    def __init__(self, config: Config, device: torch.device) -> None:
        self._config = config
        self._device = device
        self._neighbours = config.monitor.knn_neighbours
        folder = resolve_folder(config.monitor.knn_folder)
        size_px = config.trainer.crops.global_px
        self._images = None if folder is None else load_images(folder, size_px)
        if self._images is not None and self._images.num_images <= self._neighbours:
            raise ConfigError(
                f"monitor.knn_neighbours={self._neighbours}, but {folder} has only "
                f"{self._images.num_images} images; lower it or add images."
            )

    @property
    def has_images(self) -> bool:
        """Whether there is a folder to measure on."""
        return self._images is not None

    def accuracy(self, backbone: Backbone) -> float | None:
        """Share of images whose label their neighbours tell; None without a folder.

        Waits for the device.
        """
        if self._images is None:
            return None
        return backbone_accuracy(backbone, self._images, self._config, self._device)

    def baselines(self, seed: int) -> dict[str, float]:
        """What no training reaches: `raw_pixels`, and `random_weights` of the settings' backbone.

        Empty without a folder. Waits for the device.
        """
        if self._images is None:
            return {}
        alone = {"pretrained": False, "distillation": DistillationConfig()}
        fresh = self._config.trainer.model_copy(update=alone)
        model = build_model(fresh, run_seed=seed, device=self._device)
        random_weights = self.accuracy(model.teacher.backbone)
        assert random_weights is not None
        raw = raw_pixel_accuracy(self._images, self._config)
        return {"raw_pixels": raw, "random_weights": random_weights}


def backbone_accuracy(
    backbone: Backbone, images: LabelledImages, config: Config, device: torch.device
) -> float:
    """kNN accuracy, leave-one-out, of a backbone's features in the precision of the settings."""
    with autocast(config.trainer.precision, device):
        features_ND = extract(backbone, images.images_NCHW, device)
    return _accuracy(features_ND, images, config)


def raw_pixel_accuracy(images: LabelledImages, config: Config) -> float:
    """kNN accuracy, leave-one-out, of the pixels themselves."""
    return _accuracy(raw_pixels(images.images_NCHW), images, config)


def _accuracy(features_ND: torch.Tensor, images: LabelledImages, config: Config) -> float:
    neighbours = config.monitor.knn_neighbours
    return leave_one_out_accuracy(features_ND, images.labels_N, neighbours=neighbours)
