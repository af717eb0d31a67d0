"""`python -m seqdistill`: the command line, where no script of that name is on the path."""

from seqdistill.cli.main import run

if __name__ == "__main__":
    run()
