"""What kind of fusion the data ask for: an ensemble, one head on all features, teachers, or a head that multiplies.

After the guiding strategy of arXiv 2305.01233 (freeze unimodal encoders, fit a linear classifier on the concatenated
features, compare it with the mean of the unimodal predictions), with three things that it lacks; `rule` says which.
"""

from fusetune.guidance.rule import DELTA, WARNINGS, Guidance, guided

__all__ = ["DELTA", "WARNINGS", "Guidance", "guided"]
