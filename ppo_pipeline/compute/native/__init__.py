"""Kernels of our own for CPUs, compiled by the machine's C compiler at the first use."""
