"""Data sets as tables: published ones from the folders of their publishers, example data, and synthetic frames."""

from fusetune.datasets.food101 import food101_table
from fusetune.datasets.fpus23 import fpus23_table
from fusetune.datasets.mogonet import mogonet_table
from fusetune.datasets.phantom import write_phantom
from fusetune.datasets.script import Knobs
from fusetune.datasets.stamps import fetch_stamps

__all__ = ["Knobs", "fetch_stamps", "food101_table", "fpus23_table", "mogonet_table", "write_phantom"]
