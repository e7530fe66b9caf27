"""The grid of a paper in one file: extraction, probing and the report in turn."""
