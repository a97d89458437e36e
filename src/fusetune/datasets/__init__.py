"""Real data to try fusetune on, fetched from where it is published and turned into a table with pictures."""

from fusetune.datasets.stamps import fetch_stamps

__all__ = ["fetch_stamps"]
