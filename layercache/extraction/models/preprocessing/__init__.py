"""How an image becomes a model's input."""
