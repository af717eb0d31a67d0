"""What a command does, a file each: recipes go in, runs come out. What Python users call."""
