"""Students that draft for their teachers: their recipes, and the data of one."""
