"""For all tests: where there is no GPU, Triton's kernels run interpreted, on a CPU's tensors."""

import os

import torch

# Triton reads it when it is imported, which the conftests below this one do.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
