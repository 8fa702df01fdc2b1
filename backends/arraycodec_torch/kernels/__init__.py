"""Triton kernels, and nothing else: what launches them lies beside this folder."""
