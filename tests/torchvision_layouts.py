"""Tiny data sets in the layouts that torchvision.datasets expects, made for tests.

Each writer returns the labels of its splits, in the order that the split must have.
"""

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import scipy.io
import torch

from tests.labelled_files import write_lines, write_pictures

Labels = Mapping[str, list[int] | list[list[bool]]]


def aircraft(root: Path) -> Labels:
    data = root / "fgvc-aircraft-2013b" / "data"
    variants = ["707-320", "A300B4"]
    write_lines(data / "variants.txt", variants)
    labels = {"train": [0, 1], "val": [1], "test": [1, 0, 0]}
    for split, own in labels.items():
        names = [f"{split}{index}" for index in range(len(own))]
        rows = [f"{name} {variants[label]}" for name, label in zip(names, own, strict=True)]
        write_lines(data / f"images_variant_{split}.txt", rows)
        write_pictures(data / "images", [f"{name}.jpg" for name in names])
    return labels


def cars(root: Path) -> Labels:
    base = root / "stanford_cars"
    labels = {"train": [1, 0], "test": [2, 0, 1]}
    (base / "devkit").mkdir(parents=True)
    names = np.array(["Audi", "BMW", "Fiat"], dtype=object)
    scipy.io.savemat(base / "devkit" / "cars_meta.mat", {"class_names": names})
    places = {
        "train": base / "devkit" / "cars_train_annos.mat",
        "test": base / "cars_test_annos_withlabels.mat",
    }
    for split, own in labels.items():
        files = [f"{index:05d}.jpg" for index in range(len(own))]
        rows = np.array(
            [(file, label + 1) for file, label in zip(files, own, strict=True)],
            dtype=[("fname", object), ("class", object)],
        )
        scipy.io.savemat(places[split], {"annotations": rows})
        write_pictures(base / f"cars_{split}", files)
    return labels


def dtd(root: Path) -> Labels:
    base = root / "dtd" / "dtd"
    labels = {"train": [0, 1], "val": [0, 1, 1], "test": [1, 0]}
    for split, own in labels.items():
        files = [
            f"{'banded' if not label else 'woven'}/{split}{i}.jpg" for i, label in enumerate(own)
        ]
        write_lines(base / "labels" / f"{split}1.txt", files)
        write_pictures(base / "images", files)
    return labels


def flowers(root: Path) -> Labels:
    base = root / "flowers-102"
    base.mkdir(parents=True)
    of_image = [5, 1, 102, 5, 7]
    scipy.io.savemat(base / "imagelabels.mat", {"labels": np.array(of_image)})
    ids = {"trnid": [1, 2], "valid": [3, 4], "tstid": [5, 1]}
    scipy.io.savemat(base / "setid.mat", {name: np.array(value) for name, value in ids.items()})
    write_pictures(base / "jpg", [f"image_{index:05d}.jpg" for index in range(1, 6)])
    words = {"train": "trnid", "val": "valid", "test": "tstid"}
    return {split: [of_image[one - 1] - 1 for one in ids[word]] for split, word in words.items()}


def pets(root: Path) -> Labels:
    base = root / "oxford-iiit-pet"
    breeds = ["Abyssinian", "american_bulldog"]
    labels = {"train": [1, 0, 1], "test": [0, 1]}
    for split, own in labels.items():
        names = [f"{breeds[label]}_{split}{index}" for index, label in enumerate(own)]
        rows = [f"{name} {label + 1} 1 1" for name, label in zip(names, own, strict=True)]
        word = "trainval" if split == "train" else split
        write_lines(base / "annotations" / f"{word}.txt", rows)
        write_pictures(base / "images", [f"{name}.jpg" for name in names])
    return labels


def sun397(root: Path) -> Labels:
    base = root / "SUN397"
    write_lines(base / "ClassName.txt", ["/a/abbey", "/b/building/outdoor"])
    files = {
        "Training_01.txt": ["/b/building/outdoor/sun_1.jpg", "/a/abbey/sun_2.jpg"],
        "Testing_01.txt": ["/a/abbey/sun_3.jpg"],
    }
    for name, lines in files.items():
        write_lines(base / name, lines)
        write_pictures(base, [line.strip("/") for line in lines])
    return {"train": [1, 0], "test": [0]}


def caltech101(root: Path) -> Labels:
    base = root / "caltech101" / "101_ObjectCategories"
    counts = {"BACKGROUND_Google": 33, "ant": 31, "beaver": 35}
    for seed, (label, count) in enumerate(counts.items()):
        names = [f"image_{index:04d}.jpg" for index in range(1, count + 1)]
        write_pictures(base / label, names, seed=1000 * seed)
    return {"train": [0] * 30 + [1] * 30 + [2] * 30, "test": [0] * 3 + [1] + [2] * 5}


def food101(root: Path) -> Labels:
    base = root / "food-101"
    for split in ("train", "test"):
        files = {"ramen": [f"ramen/{split}1"], "bibimbap": [f"bibimbap/{split}{i}" for i in (1, 2)]}
        write_lines(base / "meta" / f"{split}.json", [json.dumps(files)])
        write_pictures(base / "images", [f"{one}.jpg" for own in files.values() for one in own])
    return {"train": [1, 0, 0], "test": [1, 0, 0]}


def voc2007(root: Path) -> Labels:
    base = root / "VOCdevkit" / "VOC2007"
    sets = base / "ImageSets" / "Main"
    labels = {"train": [[True, False]], "val": [[True, True]], "test": [[False, True], [False] * 2]}
    for split, own in labels.items():
        names = [f"{split}{index}" for index in range(len(own))]
        write_lines(sets / f"{split}.txt", names)
        for index, label in enumerate(("aeroplane", "person")):
            # An absent aeroplane is marked difficult, an absent person absent.
            marks = ["1" if row[index] else str(-index).rjust(2) for row in own]
            rows = [f"{name} {mark}" for name, mark in zip(names, marks, strict=True)]
            write_lines(sets / f"{label}_{split}.txt", rows)
        write_pictures(base / "JPEGImages", [f"{name}.jpg" for name in names])
    return labels


def cifar10(root: Path) -> Labels:
    base = root / "cifar-10-batches-py"
    base.mkdir(parents=True)
    random = np.random.default_rng(0)
    labels = {}
    for split, names in (
        ("train", [f"data_batch_{i}" for i in range(1, 6)]),
        ("test", ["test_batch"]),
    ):
        labels[split] = [index % 3 for index in range(len(names))]
        for name, label in zip(names, labels[split], strict=True):
            entry = {"data": random.integers(0, 256, (1, 3072), dtype=np.uint8), "labels": [label]}
            (base / name).write_bytes(pickle.dumps(entry))
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": ["plane", "car", "bird"]}))
    return labels


def imagenet(root: Path) -> Labels:
    names = {"n01": ("tench", "Tinca tinca"), "n02": ("goldfish",)}
    root.mkdir(parents=True)
    torch.save((names, []), root / "meta.bin")
    write_pictures(root / "train", ["n02/n02_1.JPEG", "n01/n01_1.JPEG", "n01/n01_2.JPEG"])
    write_pictures(root / "val", ["n01/1.JPEG", "n02/2.JPEG"])
    return {"train": [0, 0, 1], "val": [0, 1]}


LAYOUTS: Mapping[str, Callable[[Path], Labels]] = {
    "FGVCAircraft": aircraft,
    "StanfordCars": cars,
    "DTD": dtd,
    "Flowers102": flowers,
    "OxfordIIITPet": pets,
    "SUN397": sun397,
    "Caltech101": caltech101,
    "Food101": food101,
    "VOC2007": voc2007,
    "CIFAR10": cifar10,
    "ImageNet": imagenet,
}
