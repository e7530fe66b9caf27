"""Checkpoints: download, reading, key prefixes."""
