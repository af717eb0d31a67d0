"""The command line: the only room that prints. Nothing below it is imported until it is needed."""
