"""Published data sets as tables, made of the folders of their publishers."""

from fusetune_papers.datasets.food101 import food101_table
from fusetune_papers.datasets.fpus23 import fpus23_table
from fusetune_papers.datasets.mogonet import mogonet_table

__all__ = ["food101_table", "fpus23_table", "mogonet_table"]
