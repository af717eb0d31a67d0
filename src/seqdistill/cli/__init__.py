"""The command line: the only package that prints. The layers below are imported when needed."""
