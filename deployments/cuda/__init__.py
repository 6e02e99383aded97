"""Kernels in Triton and captured graphs for NVIDIA GPUs; nothing here is imported where there is none."""
