"""Example data as tables. Those of published experiments are in `fusetune_papers`."""

from fusetune.datasets.stamps import fetch_stamps

__all__ = ["fetch_stamps"]
