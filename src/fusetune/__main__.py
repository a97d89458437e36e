"""`python -m fusetune` is the command line."""

from fusetune.cli import main

main()
