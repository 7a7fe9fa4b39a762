"""Bytes and what they mean: messages, pictures."""
