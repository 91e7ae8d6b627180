"""Writes the tuning set: pictures to choose settings on, so that the check set stays unseen.

    python -m recipes.check_set.tuning_set --out runs/tuning_set
    torchrun ... monitor.knn_folder=runs/tuning_set

The same labels and names as the check set, drawn by Noto instead of OpenMoji. The embedded image
model was trained on some of Noto's icons, so figures on these pictures flatter: they are for
comparing settings, and no result. Needs npm the first time, and resvg-py.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from recipes.check_set.build import Icon, file_name, label_rows, render
from recipes.embedded_image_model.sources import SOURCES, fetch

_NOTO_CANVAS = 128


def main() -> None:
    """Write `<out>/<label>/<name>.png`, replacing what was there, and print how many."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--icons", type=Path, default=Path("runs/icons"), help="package cache")
    args = parser.parse_args()
    noto = next(source for source in SOURCES if source.key == "noto")
    icons = select(json.loads(fetch(noto, args.icons).read_text("utf-8")))
    for label in {icon.label for icon in icons}:
        shutil.rmtree(args.out / label, ignore_errors=True)
        (args.out / label).mkdir(parents=True)
    for icon in icons:
        (args.out / icon.label / f"{icon.name}.png").write_bytes(render(icon))
    print(f"{len(icons)} pictures in {args.out}")


def select(package: dict[str, Any]) -> list[Icon]:
    """Noto's drawings of the check set's names; names that Noto does not have are left out."""
    aliases = package.get("aliases", {})
    icons = []
    for label, _, names in label_rows():
        for name in map(file_name, names):
            drawing = package["icons"].get(aliases.get(name, {}).get("parent", name))
            if drawing:
                icons.append(Icon(label, name, drawing["body"], _NOTO_CANVAS))
    return icons


if __name__ == "__main__":
    main()
