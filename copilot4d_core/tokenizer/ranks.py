# Copyright 2026 copilot4d developers
# SPDX-License-Identifier: Apache-2.0
"""What the processes of one training run tell each other; a single process tells nobody anything.

Every function is collective: all ranks call it, in the same order, with tensors of the same shape. Unusual: each rank
holds an equal part of the batch, and the parts in the order of the ranks are the batch; so what is joined does not
depend on how many ranks there are.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def world_size() -> int:
    """Number of processes of the run; 1 without a process group."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this is rank 0, which alone writes files and speaks."""
    return world_size() == 1 or distributed.get_rank() == 0


def total(tensor: Tensor) -> Tensor:
    """Sum over the ranks, the same bits on each; the argument itself when there is one process."""
    if world_size() == 1:
        return tensor
    result = tensor.contiguous().clone()
    distributed.all_reduce(result)
    return result


def joined(tensor: Tensor) -> Tensor:
    """The ranks' tensors one after another along the first axis."""
    if world_size() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def joined_rows(local_ND: Tensor, index_M: Tensor) -> Tensor:
    """Some rows of `joined(local_ND)`, (M, D), without sending the others.

    Args:
        local_ND: this rank's rows.
        index_M: int64, the same on every rank; counts through the rows of all.
    """
    if world_size() == 1:
        return local_ND[index_M]
    place_M = index_M - distributed.get_rank() * len(local_ND)
    mine = (place_M >= 0) & (place_M < len(local_ND))
    rows_MD = local_ND.new_zeros(len(index_M), local_ND.shape[1])
    rows_MD[mine] = local_ND[place_M[mine]]
    return total(rows_MD)  # Each row is zero on all ranks but one, so the sum is that row exactly.


def of_first(tensor: Tensor) -> Tensor:
    """Rank 0's tensor."""
    if world_size() > 1:
        tensor = tensor.contiguous()
        distributed.broadcast(tensor, src=0)
    return tensor


def joined_names(names: list[str]) -> list[str]:
    """The ranks' lists one after another."""
    if world_size() == 1:
        return names
    parts: list[list[str]] = [[] for _ in range(world_size())]
    distributed.all_gather_object(parts, names)
    return [name for part in parts for name in part]
