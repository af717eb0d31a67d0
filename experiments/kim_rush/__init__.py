"""Kim and Rush 2016, every row of their tables on two real tasks: cells, runner, page."""
