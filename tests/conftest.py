"""For all tests: where there is no GPU, Triton's kernels run interpreted, and Ctrl-C is one however they were begun."""

import os
import signal

import torch

# Triton reads it when it is imported, which the conftests below this one do.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# A shell has what it begins with `&` ignore SIGINT, and all below it: no Ctrl-C that a test sends would be heard.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
