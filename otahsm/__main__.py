"""`python -m otahsm` is the `otahsm` command."""

from otahsm.cli import main

if __name__ == "__main__":
    main()
