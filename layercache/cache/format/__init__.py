"""The format of a cache: spec, layout, commit records, shards and Zarr metadata."""
