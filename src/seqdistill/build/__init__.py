"""The build package: the only one that knows recipes and classes. Recipes go in, runs come out."""
