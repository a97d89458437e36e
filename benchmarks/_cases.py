"""The real data sets of the benchmarks: how each is fitted, and what its result is compared with.

References are logistic regression on frozen features (EfficientNet-Lite2 and MiniLM; for rosmap the average of three
logistic regressions), as given with the data. Every choice behind the settings below was made on validation rows.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DATA = Path(os.environ.get("FUSETUNE_DATA", "../shared/data"))


@dataclass(frozen=True)
class Case:
    """One data set: how to fit it and what to compare with."""

    folder: str
    label: str
    reference: str
    goal: str
    options: dict[str, Any] = field(default_factory=dict)
    sets: tuple[str, ...] = ()


CASES = {
    "medpix2": Case(
        "medpix2",
        "label",
        "79.0 % / .60",
        ">= 88 % / <= .45",
        {"inputs": ["image", "history", "age", "sex"], "group": "uid", "split": "split"},
        # Frozen: on 600 cases, fine-tuning a sentence encoder gave nothing.
        ("text.encoder=all-mpnet-base-v2", "text.train.epochs=0", "text.augment.drop=0"),
    ),
    "hc18": Case(
        "hc18_trimester",
        "label_hc_quartile",
        "65.6 % / .80",
        ">= 80 %",
        {"inputs": ["image", "pixel_size_mm"], "group": "subject", "split": "split"},
        (
            "image.spacing=pixel_size_mm",
            "image.background=0",
            "image.augment=scan",
            "image.encode_size=160",
            "image.train.epochs=12",
        ),
    ),
    "flipkart": Case(
        "flipkart_1050",
        "label",
        "92.4 % / .32",
        ">= 96 %",
        {"inputs": ["image", "text", "retail_price", "discounted_price", "brand"], "split": "split"},
    ),
    "rosmap": Case(
        "rosmap",
        "label",
        "86.8 %",
        ">= 88 % (mean of 5 seeds)",
        {"vectors": {name: f"{name}__*" for name in ("mrna", "meth", "mirna")}, "split": "split"},
        ("vector.augment.corrupt=0", "views=1", "head.inputs=logits"),
    ),
}
