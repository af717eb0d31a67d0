"""Documentation whose numbers and lists are written by script."""
