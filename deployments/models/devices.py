"""What a process may take of its GPU."""

from __future__ import annotations

import torch


def bound_gpu_memory(max_bytes: int | None) -> None:
    """From here on this process allocates at most so many bytes of its GPU (None: all); beyond it torch raises.

    Roles that share a GPU cannot take each other's memory then. The CUDA context, some hundred
    megabytes, comes on top. ValueError if the GPU has less.
    """
    if max_bytes is None:
        return
    total_bytes = torch.cuda.get_device_properties(0).total_memory
    if max_bytes > total_bytes:
        raise ValueError(f"max_gpu_bytes: {max_bytes} is more than the GPU's {total_bytes}; lower it")
    torch.cuda.set_per_process_memory_fraction(max_bytes / total_bytes)
