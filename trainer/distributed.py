"""The trainers' own process groups: one for the device, one on the CPU for votes and figures.

Both live under the trainers' prefix of the store with their own world size; generators are in no
group. A single trainer has no group at all: nothing of it waits for anybody.
"""

from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from online_synclr.config import ConfigError
from online_synclr.topology import Roster
from trainer.role import TrainerRole

CPU_GROUP_TIMEOUT = timedelta(minutes=60)
"""A backstop, never a signal: a vote repeats every second, and only another trainer's step,
checkpoint or evaluation delays it. torchrun ends everybody when a rank dies."""


@dataclass(frozen=True)
class Trainers:
    """This trainer among the trainers.

    `device_group` carries tensors of `device` (nccl or gloo), `cpu_group` votes and figures; both
    are None when there is one trainer.
    """

    index: int
    size: int
    device: torch.device
    device_group: dist.ProcessGroup | None = None
    cpu_group: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        """Whether this trainer writes the run folder."""
        return self.index == 0

    def device_busy(self) -> bool:
        """Whether work that was queued on the device is still being computed; never on CPU."""
        return self.device.type == "cuda" and not torch.cuda.current_stream(self.device).query()

    def close(self) -> None:
        """Leave the groups. Called once no collective is under way."""
        if self.device_group is not None:
            dist.destroy_process_group()


def join_trainers(role: TrainerRole) -> Trainers:
    """Form the groups. Waits until every trainer of the roster does the same.

    Raises:
        ConfigError: two trainers would share a GPU under NCCL.
    """
    check_own_gpus(role.roster)
    device = select_device(role.gpu, role.cpu_threads)
    if role.num_trainers == 1:
        return Trainers(index=0, size=1, device=device)
    on_gpu = device.type == "cuda"
    dist.init_process_group(
        backend="nccl" if on_gpu else "gloo",
        store=dist.PrefixStore("groups", role.store),
        rank=role.trainer_index,
        world_size=role.num_trainers,
        device_id=device if on_gpu else None,
    )
    return Trainers(
        index=role.trainer_index,
        size=role.num_trainers,
        device=device,
        device_group=dist.group.WORLD,
        cpu_group=dist.new_group(backend="gloo", timeout=CPU_GROUP_TIMEOUT),
    )


def select_device(gpu: int | None, cpu_threads: int) -> torch.device:
    """The rank's device, made current, with torch's threads set to this rank's share."""
    torch.set_num_threads(cpu_threads)
    if gpu is None:
        return torch.device("cpu")
    device = torch.device("cuda", gpu)
    torch.cuda.set_device(device)
    return device


def check_own_gpus(roster: Roster) -> None:
    """Refuse a GPU shared by two trainers; NCCL would fail later and less clearly.

    Raises:
        ConfigError: names the GPU.
    """
    taken: set[tuple[str, int]] = set()
    for member in roster.trainers:
        if member.gpu is None:
            continue
        place = (member.host, member.gpu)
        if place in taken:
            raise ConfigError(
                f"two NCCL trainers may not share a GPU, but both would use cuda:{member.gpu} of "
                f"{member.host}; lower topology.trainers or set run.device=cpu."
            )
        taken.add(place)
