"""Kernels run interpreted here: their logic on a CPU's tensors. tests/gpu runs them compiled."""

import os

# Read when a kernel is defined, so before any of them is imported.
os.environ["TRITON_INTERPRET"] = "1"
