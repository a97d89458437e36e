"""Names of encoders, looked up before anything is read or written: do they lead to weights?"""

from __future__ import annotations

from collections.abc import Collection

from fusetune.config import Config
from fusetune.encoders.packages import IMAGE_PACKAGES, TEXT_PACKAGES
from fusetune.encoders.pretrained import locate
from fusetune.encoders.sentence import UNTRAINED


def check_encoders(kinds: Collection[str], config: Config) -> None:
    """Refuse names of encoders that lead to no weights.

    Args:
        kinds: What kinds of inputs there are; settings of others do not matter.
        config: The settings.

    Raises:
        WeightsError: Saying what was looked for.
    """
    for kind, name, packages in (
        ("image", config.image.encoder, IMAGE_PACKAGES),
        ("text", config.text.encoder, TEXT_PACKAGES),
    ):
        # What `timm` has is known when it was imported, which takes seconds.
        if kind in kinds and name not in ("auto", *UNTRAINED) and not name.startswith("timm:"):
            locate(name, packages, allow_download=config.allow_download)
