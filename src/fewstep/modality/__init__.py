"""Bytes and files <-> media tensors in [-1, 1]: one file a modality."""
