"""What an experiment costs in encoder passes, as a function of rows, views and epochs (arXiv 2505.06592)."""

from __future__ import annotations


def published_passes(train: int, valid: int, test: int, epochs: int) -> int:
    """Passes of the published stage M on Food-101: all three parts run through the backbone in every epoch.

    The backward pass through the backbone that follows each training batch is not counted; it costs about two more.
    """
    return epochs * (train + valid + test)


def stored_passes(train: int, valid: int, test: int, views: int) -> int:
    """Passes when every view of a training row, and every other row, is encoded once."""
    return views * train + valid + test
