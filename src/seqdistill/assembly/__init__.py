"""Recipe to objects: the only package that knows recipes and classes. Runs nothing."""
