"""What people use today to hand groups from one process to another; see `benchmarks.rivals`."""

import io
import json
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import numpy as np
import torch
import torch.multiprocessing as torch_mp
import xxhash
import zmq
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.stamped import make_recipe
from benchmarks.stream import Shape
from benchmarks.synthetic_pictures import make_images

IN_BETWEEN = 16
WARM_UP = 16
JPEG_QUALITY = 95
NUM_STORED = 64
"""Groups in a tar, read over and over: more than the caches hold."""


def digest_of(images_mchw: np.ndarray) -> bytes:
    """Checksum of all pixels."""
    return xxhash.xxh3_64_digest(images_mchw.data)


def check(images_mchw: np.ndarray, digest: bytes) -> None:
    """Raise ValueError unless these are the pixels that were sent."""
    if digest_of(images_mchw) != digest:
        raise ValueError("a group arrived changed")


def timed(take: Callable[[], tuple[np.ndarray, bytes]], num_groups: int) -> float:
    """Groups a second that `take` yields, after the first few."""
    for _ in range(WARM_UP):
        check(*take())
    began_s = time.perf_counter()
    for _ in range(num_groups):
        check(*take())
    return num_groups / (time.perf_counter() - began_s)


class _Fed:
    """A rival with a process that sends as many groups as it is asked for."""

    def __init__(self, body: Callable[..., None], *arguments: object) -> None:
        context = torch_mp.get_context("spawn")
        self._orders, orders = context.Pipe()
        self._process = context.Process(target=body, args=(*arguments, orders))
        self._process.start()

    def order(self, num_groups: int) -> None:
        """Have so many sent."""
        self._orders.send(num_groups + WARM_UP)

    def __enter__(self) -> "_Fed":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None
    ) -> None:
        if kind is None:
            self._orders.send(0)
            self._process.join(30.0)
        self._process.kill()


def queue_case(stack: ExitStack, shape: Shape) -> Callable[[int], float]:
    """torch.multiprocessing.Queue."""
    queue = torch_mp.get_context("spawn").Queue(IN_BETWEEN)
    fed = stack.enter_context(_Fed(_feed_queue, queue, shape))

    def take() -> tuple[np.ndarray, bytes]:
        _, images, digest = queue.get()
        return images.numpy(), digest

    def rate(num_groups: int) -> float:
        fed.order(num_groups)
        return timed(take, num_groups)

    return rate


def _feed_queue(queue: Any, shape: Shape, orders: Connection) -> None:
    torch.set_num_threads(1)
    images, recipe = make_images(shape), msgspec.to_builtins(make_recipe(shape))
    while num_groups := orders.recv():
        for _ in range(num_groups):
            # A new tensor over the same pixels: one that was sent before is not copied again.
            queue.put((recipe, torch.from_numpy(images), digest_of(images)))


def push_case(stack: ExitStack, shape: Shape, folder: Path) -> Callable[[int], float]:
    """PUSH/PULL with pickle."""
    context = stack.enter_context(zmq.Context())
    pull = stack.enter_context(context.socket(zmq.PULL))
    pull.setsockopt(zmq.RCVHWM, IN_BETWEEN // 2)
    address = f"ipc://{folder / 'push'}"
    pull.bind(address)
    fed = stack.enter_context(_Fed(_feed_push, address, shape))

    def take() -> tuple[np.ndarray, bytes]:
        _, images, digest = pull.recv_pyobj()
        return images, digest

    def rate(num_groups: int) -> float:
        fed.order(num_groups)
        return timed(take, num_groups)

    return rate


def _feed_push(address: str, shape: Shape, orders: Connection) -> None:
    images, recipe = make_images(shape), msgspec.to_builtins(make_recipe(shape))
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.setsockopt(zmq.SNDHWM, IN_BETWEEN // 2)
        push.connect(address)
        while num_groups := orders.recv():
            for _ in range(num_groups):
                push.send_pyobj((recipe, images, digest_of(images)), protocol=5)


def write_tar(path: Path, shape: Shape, *, jpeg: bool) -> None:
    """`NUM_STORED` groups: recipe and checksum as .json, pixels as .npy or .0.jpg, .1.jpg, ..."""
    with tarfile.open(path, "w") as tar:
        for number in range(NUM_STORED):
            images = make_images(shape, number)
            files = _jpeg_files(images) if jpeg else {"npy": _npy_bytes(images)}
            kept = _decode(files, shape)
            digest = digest_of(kept).hex()
            about = {"recipe": msgspec.to_builtins(make_recipe(shape)), "digest": digest}
            for ending, data in {"json": json.dumps(about).encode(), **files}.items():
                entry = tarfile.TarInfo(f"{number:06d}.{ending}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))


def _npy_bytes(images: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, images)
    return out.getvalue()


def _jpeg_files(images: np.ndarray) -> dict[str, bytes]:
    files = {}
    for index, image in enumerate(images.transpose(0, 2, 3, 1)):
        out = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image)).save(
            out, "JPEG", quality=JPEG_QUALITY, subsampling=0
        )
        files[f"{index}.jpg"] = out.getvalue()
    return files


def _decode(files: dict[str, bytes], shape: Shape) -> np.ndarray:
    if "npy" in files:
        stored: np.ndarray = np.load(io.BytesIO(files["npy"]))
        return stored
    images = np.empty(shape, np.uint8)
    for index, image in enumerate(images):
        with Image.open(io.BytesIO(files[f"{index}.jpg"])) as picture:
            image[:] = np.asarray(picture).transpose(2, 0, 1)
    return images


class TarGroups(IterableDataset[tuple[dict[str, Any], torch.Tensor, bytes]]):
    """The groups of a tar, for ever."""

    def __init__(self, path: Path, shape: Shape) -> None:
        self._path, self._shape = path, shape

    def __iter__(self) -> Iterator[tuple[dict[str, Any], torch.Tensor, bytes]]:
        """Recipe, pixels, checksum."""
        while True:
            for files in _samples(self._path):
                about = json.loads(files.pop("json"))
                images = torch.from_numpy(_decode(files, self._shape))
                yield about["recipe"], images, bytes.fromhex(about["digest"])


def _samples(path: Path) -> Iterator[dict[str, bytes]]:
    # A stream, as webdataset reads it: no index, no seeking.
    with path.open("rb") as file, tarfile.open(fileobj=file, mode="r|") as tar:
        name, files = "", dict[str, bytes]()
        for entry in tar:
            key, _, ending = entry.name.partition(".")
            if key != name and files:
                yield files
                files = {}
            data = tar.extractfile(entry)
            assert data is not None, "the tar holds files only"
            name, files[ending] = key, data.read()
        if files:
            yield files


def loader_case(folder: Path, shape: Shape, *, jpeg: bool) -> Callable[[int], float]:
    """A DataLoader over a tar."""
    path = folder / ("jpeg.tar" if jpeg else "raw.tar")
    write_tar(path, shape, jpeg=jpeg)
    loader = DataLoader(
        TarGroups(path, shape),
        batch_size=None,
        num_workers=1,
        prefetch_factor=IN_BETWEEN,
        multiprocessing_context="spawn",
    )
    groups = iter(loader)

    def take() -> tuple[np.ndarray, bytes]:
        _, images, digest = next(groups)
        return images.numpy(), digest

    return lambda num_groups: timed(take, num_groups)


def make_rivals(
    names: Sequence[str], shape: Shape, folder: Path, stack: ExitStack
) -> dict[str, Callable[[int], float]]:
    """Those of these names: number of groups -> groups a second."""
    torch.set_num_threads(1)
    makers: dict[str, Callable[[], Callable[[int], float]]] = {
        "mp_queue": lambda: queue_case(stack, shape),
        "push_pickle": lambda: push_case(stack, shape, folder),
        "loader_raw": lambda: loader_case(folder, shape, jpeg=False),
        "loader_jpeg": lambda: loader_case(folder, shape, jpeg=True),
    }
    return {name: makers[name]() for name in names if name in makers}
