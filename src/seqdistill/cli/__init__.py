"""The command line: the only package that prints. Nothing below it is imported until it is needed."""
