"""Compiled CPU kernels: C++ sources, built at first use, and what Python needs to call them."""
