"""What the bytes of a cache mean: its spec, layout, commit records, shards and Zarr metadata."""
