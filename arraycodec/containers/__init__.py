"""Encoded arrays as bytes: frames, safetensors files, and the native container that joins the two."""
