"""The cache on disk: the contract between extraction and probing. Knows numpy, zarr and json; no model, no image."""
