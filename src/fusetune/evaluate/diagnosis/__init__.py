"""Diagnosis of any saved network: laziness, missing and noisy inputs, missing cells, attacks, interference, certainty.

Encoders run once over the judged rows. They run again only where what they see is changed: for noisy pictures, for
texts with fewer words, and for missing cells.
"""

from __future__ import annotations

from fusetune.evaluate.diagnosis.asked import Asked, Diagnosed
from fusetune.evaluate.diagnosis.diagnose import Diagnosis, Wanted, diagnose
from fusetune.evaluate.diagnosis.division import divided
from fusetune.evaluate.diagnosis.incomplete import CellMasks
from fusetune.evaluate.diagnosis.laziness import Parts

__all__ = ["Asked", "CellMasks", "Diagnosed", "Diagnosis", "Parts", "Wanted", "diagnose", "divided"]
