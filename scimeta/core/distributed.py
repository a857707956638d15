"""One batch of tasks over several processes, as ``torchrun --nproc-per-node=N script.py`` starts them."""

from __future__ import annotations

import atexit
import os
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils import _pytree as pytree

from scimeta.core.rules import Meta
from scimeta.core.tasks import Task, select_tasks


class Ranks(NamedTuple):
    """Which of how many processes this is.

    Attributes:
        rank: 0 to size - 1.
        size: number of processes; 1 when the script runs alone.
    """

    rank: int
    size: int

    def share(self, batch: Task, tasks: int) -> Task:
        """Return this process's part of a batch of ``tasks``."""
        if self.size == 1:
            return batch
        each = tasks // self.size
        return select_tasks(batch, slice(self.rank * each, (self.rank + 1) * each))

    def average(self, losses: Tensor, gradient: Meta) -> tuple[Tensor, Meta]:
        """Return the losses of the whole batch and the mean of the processes' gradients, in one exchange."""
        if self.size == 1:
            return losses, gradient
        leaves, spec = pytree.tree_flatten(gradient)
        everyone = losses.new_zeros(self.size, len(losses))
        everyone[self.rank] = losses
        flat = torch.cat([everyone.reshape(-1), *(leaf.reshape(-1) / self.size for leaf in leaves)])
        dist.all_reduce(flat)
        parts = flat.split([everyone.numel(), *(leaf.numel() for leaf in leaves)])
        averaged = [part.reshape(leaf.shape).to(leaf.dtype) for part, leaf in zip(parts[1:], leaves, strict=True)]
        return parts[0].clone(), pytree.tree_unflatten(averaged, spec)

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.size > 1:
            dist.barrier()


def join(device: torch.device) -> Ranks:
    """Return this process's place, joining the group that torchrun has prepared (nccl on a GPU, else gloo)."""
    if not dist.is_available():
        return Ranks(0, 1)
    if not dist.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return Ranks(0, 1)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)
    return Ranks(dist.get_rank(), dist.get_world_size())


def find_device(device: str | torch.device | None, like: torch.device) -> torch.device:
    """Return the device asked for (None: ``like``); under torchrun, "cuda" is the GPU of this process.

    Raises:
        ValueError: the device is not there.
    """
    try:
        found = like if device is None else torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is no device that torch knows; say 'cpu' or 'cuda'") from error
    if found.type == "cuda":
        count = torch.cuda.device_count()
        index = int(os.environ.get("LOCAL_RANK", "0")) if found.index is None else found.index
        if index >= count:
            raise ValueError(f"device {str(found)!r} is asked for, but torch sees {count} CUDA devices; pass 'cpu'")
        return torch.device("cuda", index)
    try:
        torch.empty(0, device=found).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device {str(found)!r} is asked for, but it cannot compute here; pass 'cpu'") from error
    return found
