"""Options of the commands, one constant each."""
