"""The build room."""
