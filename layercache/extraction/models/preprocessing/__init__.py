"""Preprocessing: from an image to a model's input."""
