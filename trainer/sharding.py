"""Student and teacher spread over the trainers: `trainer.parallel: fsdp` (torch's FSDP2).

Each trainer holds an equal cut of every parameter, gradient and moment, in float32. A block's
parameters are gathered when it computes and let go afterwards; gradients are averaged into the
cuts. The objective, whose forward pass is one call of the student and one of the teacher, sees
none of it.

Groups that are gathered together: each block, projector, predictor, MIM head, and the rest of the
network, which are positions, tokens, patch embedding and last norm. The rest belongs to the whole
network's call, inside which alone it is used. The student's heads and rest stay gathered until
their backward pass, which begins as soon as the forward pass is over. Prototypes leave the MIM
head as a tensor of their own, so that the losses need no parameter.

Autocast computes as it does without shards; what is gathered is float32.
"""

from typing import Any

import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from online_synclr.config.schema import TrainerConfig
from trainer.distillation.teacher import FrozenTeacher
from trainer.distributed import Trainers
from trainer.objective.ema import EmaUpdate
from trainer.objective.model import Student, StudentOutput, SynCLRModel, Teacher


def shard_if_asked(model: SynCLRModel, settings: TrainerConfig, trainers: Trainers) -> SynCLRModel:
    """The model, sharded in place if `parallel` is `fsdp` and there is more than one trainer.

    To be called before the optimiser is made and a checkpoint is loaded: parameters are replaced.
    Nothing is sent; the networks must be equal on all trainers, as `build_model` makes them.
    """
    if settings.parallel != "fsdp" or trainers.device_group is None:
        return model
    mesh = _mesh(trainers.device_group, trainers.device.type)
    _shard_student(model.student, mesh)
    _shard_teacher(model.teacher, mesh)
    if model.frozen is not None:
        _shard_frozen(model.frozen, mesh)
    ema = EmaUpdate(model.teacher, model.student)
    return SynCLRModel(model.student, model.teacher, ema, model.frozen)


def is_sharded(network: nn.Module) -> bool:
    """Whether the network's parameters are spread over the trainers."""
    return isinstance(network, FSDPModule)


def _mesh(group: dist.ProcessGroup, device_type: str) -> DeviceMesh:
    """The trainers in a row, over the group that they have already."""
    return DeviceMesh.from_group(group, device_type, mesh_dim_names=("trainers",))


def _shard_student(student: Student, mesh: DeviceMesh) -> None:
    for block in student.backbone.vit.blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    heads = (student.projector, student.predictor, student.mim_head, student.distillation_head)
    for head in _with_weights(*heads):
        fully_shard(head, mesh=mesh, reshard_after_forward=False)
    student.register_forward_hook(_without_views)  # before FSDP's own, which warns of views
    fully_shard(student, mesh=mesh, reshard_after_forward=False)


def _shard_teacher(teacher: Teacher, mesh: DeviceMesh) -> None:
    # It has no backward pass that would let anything go.
    heads = _with_weights(teacher.projector, teacher.mim_head)
    for module in (*teacher.backbone.vit.blocks, *heads, teacher):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    teacher.register_forward_hook(_forget_order)


def _shard_frozen(frozen: FrozenTeacher, mesh: DeviceMesh) -> None:
    """Block by block where the model has blocks in a row, else as one group."""
    blocks = getattr(frozen.model, "blocks", None)
    for module in (*(blocks if isinstance(blocks, nn.Sequential) else ()), frozen):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    frozen.register_forward_hook(_forget_order)


def _with_weights(*heads: nn.Module | None) -> list[nn.Module]:
    return [head for head in heads if head is not None and any(True for _ in head.parameters())]


def _without_views(student: nn.Module, inputs: Any, output: StudentOutput) -> StudentOutput:
    """Copies of outputs that share memory: FSDP hangs its backward pass on each one's gradient."""
    parts = (one.clone() if one is not None and one._is_view() else one for one in output)
    return StudentOutput._make(parts)


def _forget_order(teacher: nn.Module, *_: Any) -> None:
    """Drop FSDP's notes on the order of the forward pass.

    They are for a backward pass, at whose end they are dropped; the teacher has none, and a run of
    months would fill the memory with them.
    """
    if isinstance(teacher, FSDPModule) and hasattr(teacher, "reset_iter_state"):
        teacher.reset_iter_state()
        return
    # Torch 2.11 has no public way.
    for module in teacher.modules():
        if isinstance(module, FSDPModule):
            group = module._get_fsdp_state()._fsdp_param_group
            if group is not None:
                group.comm_ctx.post_forward_order.clear()
                group._post_forward_indices.clear()
