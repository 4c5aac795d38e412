"""`python -m ibpo`: the command line where the `ibpo` script is not on the path."""

from ibpo.cli import main

if __name__ == "__main__":
    main()
