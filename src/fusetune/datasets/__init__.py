"""Example data as tables, and made-up data with a known answer. Published data sets are in `fusetune_papers`."""

from fusetune.datasets.stamps import fetch_stamps
from fusetune.datasets.synthetic import Facts, Synthetic

__all__ = ["Facts", "Synthetic", "fetch_stamps"]
