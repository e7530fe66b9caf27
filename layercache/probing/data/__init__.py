"""Cached tokens as batches on the device: resident or streamed."""
