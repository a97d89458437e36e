"""The commands that this package adds to `fusetune`: importing it adds them."""

from fusetune_papers.cli import data, reproduce

__all__ = ["data", "reproduce"]
