"""Whole checkpoints: which codec for which tensor, compress, decompress, info, verify, diff."""
