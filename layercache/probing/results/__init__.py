"""What is kept of a probe, and the table of all of them."""
