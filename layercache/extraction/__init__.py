"""Stage 1: images through a frozen ViT into the cache, one decode and one forward per image."""
