"""`python -m fusetune.cli`."""

from fusetune.cli import main

if __name__ == "__main__":
    main()
