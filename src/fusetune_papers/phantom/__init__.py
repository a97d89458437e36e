"""SYNTHETIC ultrasound streams: what is drawn (`script`, `anatomy`, `film`), how (`ultrasound`), and their folder."""

from fusetune_papers.phantom.draw import write_phantom
from fusetune_papers.phantom.script import Knobs

__all__ = ["Knobs", "write_phantom"]
