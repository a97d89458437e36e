"""Two levels, one code: strategies train encoders, or small networks on features that encoders said once.

At level `features`, every picture and text becomes the vector of its pretrained encoder, standardised over the training
rows, and a run is one on vectors and columns: the same strategies train `VectorMLP` on them in seconds (settings
`vector`). What they leave is put on the encoders again (`grounded`), so that a model reads pictures and texts.
"""

from __future__ import annotations

import copy
import hashlib
from dataclasses import replace

import numpy as np
import torch

from fusetune.config import Config
from fusetune.context import Context
from fusetune.data.schema import Modality
from fusetune.data.vectors import VectorInput, VectorSource
from fusetune.encoders import Encoder, Stacked, VectorMLP
from fusetune.errors import ConfigError
from fusetune.inputs import Reader
from fusetune.networks import Network
from fusetune.process import Draws

_READ = ("image", "text")


def refuse_views(config: Config) -> None:
    """Refuse views that are drawn at prediction where pictures and texts are read once.

    Raises:
        ConfigError: Naming both settings.
    """
    if config.strategy.level == "features" and config.evaluate.test_views > 1:
        raise ConfigError(
            "evaluate.test_views draws pictures and texts anew, but with strategy.level features they are read once; "
            "leave out one of the two"
        )


def at_level(ctx: Context) -> Context:
    """Return a run at the level that its settings ask for (`strategy.level`)."""
    return ctx if ctx.config.strategy.level == "encoders" else on_features(ctx)


def on_features(ctx: Context) -> Context:
    """Return the same run on vectors: of pictures and texts, what their encoders say before any training.

    Nothing is remembered from the one to the other but stored features, and what they cost.

    Raises:
        TableError: If no training row has one of the inputs.
    """
    modalities, readers, sources, pristine = {**ctx.modalities}, {**ctx.readers}, {**ctx.sources}, {**ctx.pristine}
    for name, modality in ctx.modalities.items():
        if modality.kind in _READ:
            modalities[name] = Modality(name, "vector", (name,))
            fitted, sources[name] = _vectors(ctx, name)
            readers[name] = Reader(modalities[name], fitted)
        if modalities[name].kind == "vector":
            with Draws(ctx.config.seed, "encoder on features", name):
                pristine[name] = VectorMLP(_width(ctx, name), ctx.config.vector.width)
    train = ctx.split.rows("train")
    augments = {name: reader.augment(ctx.config, sources[name], train) for name, reader in readers.items()}
    digest = hashlib.sha256(ctx.key.encode() + b"features")
    for source in sources.values():
        digest.update(source.digests.tobytes())
    return replace(
        ctx,
        modalities=modalities,
        readers=readers,
        sources=sources,
        augments=augments,
        encodings={name: readers[name].encoding(augment, ctx.config) for name, augment in augments.items()},
        pristine=pristine,
        key=digest.hexdigest(),
        folder=None if ctx.folder is None else ctx.folder / "features",
        histories={},
        _memory={},
    )


def _width(ctx: Context, name: str) -> int:
    encoder = ctx.pristine[name]
    return encoder.dim if ctx.modalities[name].kind in _READ else int(encoder.arguments["inputs"])


def _vectors(ctx: Context, name: str) -> tuple[VectorInput, VectorSource]:
    """Return the features of every row that has a modality, standardised over the training rows, and how they are."""
    present, rows = ctx.sources[name].present, np.arange(len(ctx.labels))
    with ctx.log.timed(ctx.seconds, "encode"):
        z = np.full((len(rows), ctx.pristine[name].dim), np.nan)
        z[present] = ctx.encode(name, ctx.frozen_encoder(name), rows[present])[0]
    fitted = VectorInput.learnt([name], z[ctx.split.rows("train")], "the table")
    return fitted, fitted.source(z)


def grounded(network: Network, ctx: Context, level: Context) -> Network:
    """Return a network of a level as one that takes what is read from the table.

    Args:
        network: It is not changed.
        ctx: The run before `at_level`.
        level: The run that the network is of.
    """
    if level is ctx:
        return network
    whole = copy.deepcopy(network)
    for at, (name, top) in enumerate(network.members):
        if ctx.modalities[name].kind in _READ:
            whole.encoders[at] = _on(ctx.frozen_encoder(name), top, level.readers[name])
    return whole.to(ctx.runtime.device).eval().requires_grad_(False)


def _on(base: Encoder, top: Encoder, reader: Reader) -> Stacked:
    fitted = reader.fitted
    assert isinstance(fitted, VectorInput)
    mean, std = (torch.tensor(values, dtype=torch.float32) for values in (fitted.mean, fitted.std))
    return Stacked.of(copy.deepcopy(base), copy.deepcopy(top), mean, std).eval()


def loop_at(config: Config) -> dict[str, int]:
    """Return how long a strategy trains where nobody says so: vectors take more, larger and far cheaper batches."""
    if config.strategy.level == "encoders":
        return {}
    loop = config.vector.train
    return {"epochs": loop.epochs, "batch_size": loop.batch_size, "patience": loop.patience}
