"""`make bench-gpu`: all measurements on a GPU in one command of under eight minutes."""
