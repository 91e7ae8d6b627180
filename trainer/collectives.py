"""Small exchanges over the trainers' CPU group. Bytes only: nothing is unpickled.

Each function waits for every trainer to call it and is a plain local operation when there is one.
All of them run at moments a vote or the step count has made common.
"""

import torch
import torch.distributed as dist

CHUNK_BYTES = 64 * 2**20


def gather_bytes(data: bytes, group: dist.ProcessGroup | None) -> list[bytes]:
    """Everybody's bytes, in trainer order, on every trainer. Meant for kilobytes."""
    if group is None:
        return [data]
    size = torch.tensor([len(data)], dtype=torch.int64)
    sizes = [torch.empty_like(size) for _ in range(dist.get_world_size(group))]
    dist.all_gather(sizes, size, group=group)
    longest = max(int(item) for item in sizes)
    padded = torch.zeros(max(longest, 1), dtype=torch.uint8)
    if data:
        padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    every = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(every, padded, group=group)
    return [row[: int(length)].numpy().tobytes() for row, length in zip(every, sizes, strict=True)]


def broadcast_bytes(data: bytes | None, group: dist.ProcessGroup | None) -> bytes:
    """Trainer 0's bytes, on every trainer; the others give None. In chunks, for gigabytes."""
    if group is None:
        assert data is not None
        return data
    size = torch.tensor([len(data) if data is not None else 0], dtype=torch.int64)
    dist.broadcast(size, group_src=0, group=group)
    buffer = torch.empty(int(size), dtype=torch.uint8)
    if data:
        buffer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    for start in range(0, len(buffer), CHUNK_BYTES):
        dist.broadcast(buffer[start : start + CHUNK_BYTES], group_src=0, group=group)
    return buffer.numpy().tobytes()
