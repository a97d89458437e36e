"""Presets: what is tried and how long it may take, as named layers between the defaults and what the user gives."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # Frozen encoders, one view: minutes instead of half an hour.
    "quick": {
        "train": {"epochs": 0},
        "views": 1,
        "columns": {"train": {"epochs": 40}},
        "strategy": {"candidates": ["alone", "ume", "linear-probe", "trees"]},
    },
    "good": {},
    # More folds: every network learns from more rows, and the mean is over more of them.
    "best": {"views": 8, "crossfit": {"folds": 5}},
    # The published settings (arXiv 2505.06592): SGD 5e-4, five epochs, CIFAR statistics, in-sample features.
    "paper": {
        "strategy": {"name": "two-stage"},
        "views": 1,
        "image": {
            "size": 224,
            "encode_size": 224,
            "margin": 244 / 224,
            "fit": "stretch",
            "augment": "paper",
            "mean": (0.507, 0.487, 0.441),
            "std": (0.267, 0.256, 0.276),
            "train": {
                "epochs": 5,
                "batch_size": 20,
                "repeats": 1,
                "mix": {"kind": "off"},
                "optimiser": "sgd",
                "lr": 5e-4,
                "head_lr": 5e-4,
                "momentum": 0.9,
                "weight_decay": 0.0,
                "layer_decay": 1.0,
                "freeze": 0.0,
                "lora_rank": 0,
                "accumulate": 1,
                "label_smoothing": 0.0,
                "average": 0.0,
                "schedule": "constant",
                "warmup": 0.0,
                "clip": 0.0,
                "dropout": 0.0,
                "batch_norm": "train",
                "patience": 0,
            },
        },
        "crossfit": {"how": "off"},
        "head": {"pretrained": False},
    },
}

# How long a run of a preset may take where nobody says so: more is asked for by `minutes`, or by `best`.
MINUTES = {"quick": 3.0, "good": 20.0}
