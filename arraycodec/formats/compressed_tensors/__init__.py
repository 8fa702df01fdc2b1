"""Checkpoints of compressed-tensors (llm-compressor, vLLM): read and written without it."""
