"""A cache of training rows beside a linear head: what is near answers, untrained (Tip-Adapter, arXiv 2111.03930).

    A_i = sum_m delta_m cos(z_m, z_im)            over the modalities that the row and stored row i have, sum delta = 1
    f = f_linear + alpha (C / N) sum_i exp(-beta (1 - A_i)) Y_i

With delta between modalities as in CapS-Adapter (arXiv 2405.16591), whose second modality are captions of the stored
pictures. There f_linear are similarities with texts of the classes, which a table does not have: here it is the linear
head on the same frozen features, and the term of class similarities falls away with the texts. C / N makes alpha
independent of the number of rows. Features are standardised before their cosines are taken, since a column's have no
common origin. alpha, beta and delta are chosen on the validation rows (the release chose on test rows), alpha = 0 among
them, where the head is the linear one.

The saved model holds features and labels of up to `rows` training rows. Whoever gets it gets these.
"""

from __future__ import annotations

from itertools import product
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional as F

from fusetune.augment.random import Moment, uniform
from fusetune.config import Section
from fusetune.context import Context
from fusetune.data.split import Rows
from fusetune.heads.base import HeadData
from fusetune.heads.cache import CacheHead
from fusetune.heads.linear import LinearHead
from fusetune.heads.solver import fit_logistic
from fusetune.strategies.base import WHOLE, Fitted, Strategy, held_by
from fusetune.strategies.end_to_end import late_fusion
from fusetune.strategies.linear_probe import untrained
from fusetune.strategies.trainer import freeze
from fusetune.strategies.unimodal import fine_tune, probe

_ALPHAS = (0.0, 0.3, 1.0, 3.0, 10.0)
_BETAS = (1.0, 3.0, 10.0, 30.0)


class CacheHeadSettings(Section):
    """How many rows are stored, and of which encoders."""

    rows: int = Field(2000, ge=1, description="training rows stored at most, classes as evenly as they allow")
    encoders: Literal["pretrained", "fine-tuned"] = Field(
        "pretrained", description="whose features: of encoders as they are, or fine-tuned alone on the same rows"
    )


class CachedHead(Strategy):
    """Frozen encoders, a solved linear head, and a memory."""

    name, title, paper = "cache-head", "cache-head", "Tip-Adapter, arXiv 2111.03930; CapS-Adapter, arXiv 2405.16591"
    cost = "every row through every encoder once; no training; the model holds features of training rows"
    Settings = CacheHeadSettings

    @classmethod
    def unweighed(cls, settings: CacheHeadSettings) -> str:
        """Return that rows are remembered alike."""
        return "each row that it remembers speaks once; take linear-probe, which is its head without the memory"

    @classmethod
    def fit(cls, ctx: Context, settings: CacheHeadSettings) -> Fitted:
        """Encode the training rows once, solve the linear head, store rows, and choose on the validation rows."""
        before, train, valid = ctx.cost(), ctx.split.rows("train"), ctx.split.rows("valid")
        with ctx.log.timed(ctx.seconds, cls.name):
            if settings.encoders == "pretrained":
                own = {name: untrained(ctx, name) for name in ctx.modalities}
                pairs = {name: (one, probe(ctx, name, one, train, valid, name)) for name, one in own.items()}
            else:
                pairs = {name: fine_tune(ctx, name).only for name in ctx.modalities}
            data, held = (
                HeadData.of(ctx, {name: ctx.encode(name, one, rows) for name, (one, _) in pairs.items()}, rows)
                for rows in (train, valid)
            )
            config = ctx.config.head.model_copy(update={"kind": "logistic", "blockwise": False})
            fit = fit_logistic(data, held, config, len(ctx.classes), ctx.config.seed)
            fit.tell(ctx.log, "head", f"head on {', '.join(pairs)}", blocks=list(pairs))
            assert isinstance(fit.head, LinearHead)
            head = CacheHead.of(fit.head, data.some(stored(data.labels, data.keys, ctx.config.seed, settings.rows)))
            choice, tried = choose(head, held)
        encoders, classifiers = zip(*pairs.values(), strict=True)
        network = late_fusion(list(pairs), encoders, classifiers, head).to(ctx.runtime.device)
        freeze(network)
        how = "frozen pretrained" if settings.encoders == "pretrained" else "fine-tuned"
        notes: dict[str | None, str] = dict.fromkeys(ctx.modalities, f"classifier on its {how} encoder")
        notes[WHOLE] = f"{how} encoders, a linear head and {head.arguments['rows']:,} remembered rows ({choice})"
        ctx.log.record("cache", rows=head.arguments["rows"], choice=choice)
        return Fitted(network, valid, held_by(ctx, network, valid), notes, ctx.cost() - before, tried)


def stored(labels: Rows, keys: Rows, seed: int, most: int) -> Rows:
    """Return positions of the rows that are remembered: of each class alike, as long as it has rows.

    Args:
        labels: Class of each row, int64 [rows].
        keys: Row keys, int64 [rows].
        seed: With the keys, decides which rows of a class come first.
        most: How many rows at most.
    """
    first = uniform(Moment(seed), torch.from_numpy(keys), "remembered rows", 1)[:, 0].numpy()
    order = np.lexsort((first, labels))
    starts = np.searchsorted(labels[order], labels[order])
    place = np.arange(len(order)) - starts  # within its class
    return np.sort(order[np.lexsort((first[order], place))[:most]])


def choose(head: CacheHead, held: HeadData) -> tuple[str, list[np.ndarray]]:
    """Give a head the alpha, beta and delta of lowest NLL; return them in words, and the logits of all candidates."""
    z = {name: torch.from_numpy(block[0].copy()) for name, block in held.z.items()}
    present, target = (
        {name: torch.from_numpy(bits) for name, bits in held.present.items()},
        torch.from_numpy(held.labels),
    )
    with torch.inference_mode():
        head.choose(0.0, 1.0, [1.0] * len(head.dims))
        plain, (cosines, both) = head.eval()(z, present), head.cosines(z, present)
        candidates, tried = list(product(_ALPHAS, _BETAS, deltas(len(head.dims)))), []
        for alpha, beta, delta in candidates:
            head.choose(alpha, beta, delta)
            tried.append((plain + head.remembered(cosines, both)).double())
        losses = [float(F.cross_entropy(logits, target)) for logits in tried]
        alpha, beta, delta = candidates[int(np.argmin(losses))]
        head.choose(alpha, beta, delta)
    shares = ", ".join(f"{name} {share:.2g}" for name, share in zip(head.dims, delta, strict=True))
    return f"alpha {alpha:g}, beta {beta:g}, delta {shares}", [logits.numpy() for logits in tried]


def deltas(modalities: int) -> list[tuple[float, ...]]:
    """Return what modalities may count: all alike, or one of them with all, or half, of what the others would have."""
    found = {tuple([1 / modalities] * modalities): None}
    for share, favourite in product((0.5, 1.0), range(modalities)):
        even = (1 - share) / modalities
        found[tuple(even + share * (at == favourite) for at in range(modalities))] = None
    return list(found)
