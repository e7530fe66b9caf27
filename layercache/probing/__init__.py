"""Stage 2: heads trained straight from the cache. Never sees an image or a backbone."""
