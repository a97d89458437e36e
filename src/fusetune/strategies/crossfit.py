"""What stage U leaves of each modality for the head and for whoever else asks: networks, blocks, and honest scores.

With k-fold cross-fitting, k networks are trained, each without one fold (stacking, arXiv 2111.02705). A row's logits
come from the network that never saw it; those of new rows are the mean over the k networks. Features would not do:
those of separately trained encoders cannot be compared. Where fine-tuning a pretrained encoder does not lower the NLL
of the held-out folds taken together, its networks are dropped and the encoder is read as it was: one fold is too few
rows to decide that by, and networks that are no better dilute what the head learns.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from fusetune.augment.bags import BagAugment
from fusetune.augment.token_noise import TextAugment
from fusetune.context import Context
from fusetune.data.bags import BagSource
from fusetune.data.schema import free_name
from fusetune.data.split import Rows
from fusetune.data.tokens import TextSource
from fusetune.encoders import Bagged, Encoder, WordCounts, is_pretrained
from fusetune.encoders.layers import blank_linear
from fusetune.features.store import Array
from fusetune.heads.base import PRETRAINED, WORDS
from fusetune.heads.folds import Folds, has_training, make_folds
from fusetune.networks import EnsembleNetwork
from fusetune.strategies.unimodal import affordable, fine_tune, one_network, probe, relative_cost, solve_crossed
from fusetune.train.loop import History

# What a network may take of what was planned for it, since its last epochs, at the lowest rates, are worth most; and at
# most of all that is left, for something always comes after it.
_LONGER, _MOST = 1.25, 0.9


@dataclass(frozen=True)
class Block:
    """One block of features or logits that a head can read.

    Attributes:
        name: The modality's, with an ending where it is not the first block of it; no other block has it.
        owner: The modality.
        networks: Whose logits it is (their mean for new rows), or, for features, whose encoder the first one is.
        is_logits: Are these logits, or features?
        views: Augmented views of the head's rows, [views, rows, dim].
        plain: The rows that choices are made on, without augmentation, [1, rows, dim].
        z: Features of the rows of `plain`, each by an encoder that did not learn from it, [rows, dim].
    """

    name: str
    owner: str
    networks: list[EnsembleNetwork]
    is_logits: bool
    views: Array
    plain: Array
    z: Array


@dataclass(frozen=True)
class Tuned:
    """What stage U made of one modality.

    Attributes:
        block: What a head reads of it.
        held: Logits of the modality alone for the rows that choices are made on, by networks that did not learn from
            them, [rows, classes]; zero where it is absent.
        improved: Do any of the networks differ from the encoder as it was?
        note: What was done, in a few words.
        more: Further blocks: the encoder as it was.
    """

    block: Block
    held: Array
    improved: bool
    note: str
    more: list[Block] = field(default_factory=list)

    @property
    def networks(self) -> list[EnsembleNetwork]:
        """The networks of this modality; what they say together is the mean of their logits."""
        return self.block.networks


def tuned(ctx: Context, name: str) -> Tuned:
    """Run stage U for one modality as the run's settings ask; asked for twice, it is run once."""
    return ctx.remember(("tuned", name), lambda: _tuned(ctx, name, make_folds(ctx)))


def _tuned(ctx: Context, name: str, folds: Folds) -> Tuned:
    trained = has_training(ctx.settings(name), ctx.pristine[name])
    networks = _fold_networks(ctx, name, folds) if folds.pooled and trained else []
    if not folds.pooled:
        one = _single(ctx, name, folds, trained)
    elif networks:
        one = _cross_fitted(ctx, name, networks, folds)
    else:
        begun = any(_stage(ctx, name, 0, slower) in ctx.histories for slower in (False, True))
        why = ", fine-tuning undone" if begun else ", no time for fine-tuning" if trained else ""
        one = _as_it_was(ctx, name, folds, f"linear {ctx.target.model_word} on its features{why}")
    # Where nothing was tuned, the head would read the same encoder twice.
    if one.improved and ctx.config.head.pretrained and is_pretrained(ctx.pristine[name]):
        return replace(one, more=[_untouched(ctx, name, folds)])
    return one


def _single(ctx: Context, name: str, folds: Folds, trained: bool) -> Tuned:
    """One network; the head reads its features, or its logits."""
    # Others may train the same modality on all training rows, as teachers: that is another stage.
    fewer = len(folds.encoder_rows) < len(ctx.split.rows("train"))
    stage = free_name(f"{name}, without the head's rows", ctx.modalities) if fewer else name
    with ctx.log.timed(ctx.seconds, "stage_u"):
        network = fine_tune(ctx, name, folds.encoder_rows, stage)
    with ctx.log.timed(ctx.seconds, "encode"):
        encoder, _ = network.only
        views = ctx.encode(name, encoder, folds.rows, ctx.views())
        plain = ctx.encode(name, encoder, folds.choice_rows)
    improved = stage in ctx.histories and ctx.histories[stage].best_epoch >= 0
    undone = ", fine-tuning undone" if trained and is_pretrained(ctx.pristine[name]) else ""
    note = "fine-tuned" if improved else f"linear {ctx.target.model_word} on its features{undone}"
    held = logits_of_alone(network, plain[0])
    if ctx.config.head.inputs == "logits":
        block = Block(name, name, [network], True, logits_of_alone(network, views), held[None], plain[0])
    else:
        block = Block(name, name, [network], False, views, plain, plain[0])
    return Tuned(block, held, improved, note)


def _as_it_was(ctx: Context, name: str, folds: Folds, note: str) -> Tuned:
    """One encoder that is not trained; the head reads its features, or its logits."""
    encoder = ctx.frozen_encoder(name)
    with ctx.log.timed(ctx.seconds, "encode"):
        views = ctx.encode(name, encoder, folds.rows, ctx.views())
    part = probed(ctx, name, encoder, folds, note)
    if ctx.config.head.inputs == "logits":  # the final classifier's would be about its own training rows
        block = replace(part.block, is_logits=True, views=_repeated(ctx, part.held), plain=part.held[None])
    else:
        block = replace(part.block, views=views)
    return replace(part, block=block)


def probed(ctx: Context, name: str, encoder: Encoder, folds: Folds, note: str) -> Tuned:
    """Solve a classifier on an encoder that is not trained: its features are honest about every row; one plain view."""
    with ctx.log.timed(ctx.seconds, "encode"):
        views, plain = (ctx.encode(name, encoder, rows) for rows in (folds.rows, folds.choice_rows))
    with ctx.log.timed(ctx.seconds, "stage_u"):
        if folds.pooled:
            network, held = solve_crossed(ctx, name, encoder, plain, folds.rows, folds.head)
        else:
            network = one_network(ctx, name, encoder, probe(ctx, name, encoder, folds.rows, folds.choice_rows, name))
            held = logits_of_alone(network, plain[0])
    return Tuned(Block(name, name, [network], False, views, plain, plain[0]), held, False, note)


def _fold_networks(ctx: Context, name: str, folds: Folds) -> list[EnsembleNetwork]:
    """Train k networks, each without one fold; none are returned where that did not help a pretrained encoder.

    The first is a probe: where it gains nothing on its fold, the other k - 1 are not trained. Where it fell to below
    class frequencies, as a high rate on few rows makes networks do, it is tried once more at a fifth of the rate.
    """
    count, pretrained = ctx.config.crossfit.folds, is_pretrained(ctx.pristine[name])
    rest = list(ctx.modalities)[list(ctx.modalities).index(name) + 1 :]
    trained = [other for other in rest if has_training(ctx.settings(other), ctx.pristine[other])]
    # Of the time that is left, each input is given what its encoder costs beside the others' that are still to come.
    later = count * relative_cost(ctx, name, trained, folds.rows)
    settings = affordable(ctx, name, folds.rows, 1 / (count + later), 1 / count)
    networks, stages = list[EnsembleNetwork](), list[str]()
    if not settings.epochs:
        return []

    def tune(fold: int, slower: bool) -> None:
        held, stage = folds.encoder == fold, _stage(ctx, name, fold, slower)
        with ctx.log.timed(ctx.seconds, "stage_u"), ctx.within(min(_MOST, _LONGER / (count - fold + later))):
            networks.append(fine_tune(ctx, name, folds.rows[~held], stage, folds.rows[held], settings))
        stages.append(stage)

    slower = False
    for fold in range(count):
        tune(fold, slower)
        if fold or not pretrained:
            continue
        history = ctx.histories[stages[0]]
        if history.records and history.best_nll > _prior_nll(ctx, folds.rows[folds.encoder == fold]):
            ctx.log.say(f"  {name}: fine-tuning fell below class frequencies; once more at a fifth of the rate")
            settings = settings.model_copy(update={"lr": settings.lr / 5, "head_lr": settings.head_lr / 5})
            del ctx.histories[stages.pop()]  # nobody uses what fell
            networks.clear()
            slower = True
            tune(fold, slower)
            history = ctx.histories[stages[0]]
        if history.best_nll >= history.start_nll:
            break
    if not (pretrained and _undone(ctx, name, folds, [ctx.histories[stage] for stage in stages])):
        return networks
    ctx.forget("fine-tuned", name)
    return []


def _stage(ctx: Context, name: str, fold: int, slower: bool = False) -> str:
    more = ", slower" if slower else ""
    return free_name(f"{name}, fold {fold + 1} of {ctx.config.crossfit.folds}{more}", ctx.modalities)


def _prior_nll(ctx: Context, rows: Rows) -> float:
    """Return the mean loss of rows by what they are like on the whole, such as their class frequencies."""
    counted = ctx.counted(rows)
    prior = ctx.target.prior(ctx.labels[rows], counted).double().expand(len(rows), -1)
    losses = ctx.target.losses(prior, ctx.target.tensor(ctx.labels[rows]))
    return float(losses.mean()) if counted is None else float(np.average(losses.numpy(), weights=counted))


def _undone(ctx: Context, name: str, folds: Folds, histories: list[History]) -> bool:
    """Return whether fine-tuning is undone: it did not lower the NLL of the held-out rows of the folds together.

    Both sides are a little too good, since these rows chose the best epochs and the penalties of the linear classifiers
    that the networks started from.
    """
    has = ctx.sources[name].present[folds.rows]
    counted = ctx.counted(folds.rows)
    counts = np.bincount(folds.encoder[has], None if counted is None else counted[has])[: len(histories)]
    before = float(np.average([history.start_nll for history in histories], weights=counts))
    after = float(np.average([history.best_nll for history in histories], weights=counts))
    if after < before:
        return False
    which = "" if len(histories) == ctx.config.crossfit.folds else " of the first fold"
    ctx.log.say(
        f"  {name}: fine-tuning did not lower the NLL of held-out rows{which} ({before:.3f} before, {after:.3f} at "
        "best), so it is undone"
    )
    ctx.log.record("undone", stage=name, before=before, after=after, folds=len(histories))
    for history in histories:
        history.best_epoch, history.best_nll = -1, history.start_nll
    return True


def _cross_fitted(ctx: Context, name: str, networks: list[EnsembleNetwork], folds: Folds) -> Tuned:
    """A row's logits come from the network that never saw it."""
    rows, classes = folds.rows, len(ctx.classes)
    views = np.zeros((ctx.config.views, len(rows), classes), np.float32)
    held = np.zeros((len(rows), classes), np.float32)
    z = np.zeros((len(rows), networks[0].only[0].dim), np.float32)
    for fold, network in enumerate(networks):
        here, (encoder, _) = folds.encoder == fold, network.only
        with ctx.log.timed(ctx.seconds, "encode"):
            random, plain = _both(ctx, name, encoder, rows[here])
        views[:, here], held[here] = (logits_of_alone(network, seen) for seen in (random, plain[0]))
        z[here] = plain[0]
    block = Block(name, name, networks, True, views, held[None], z)
    stages = {_stage(ctx, name, fold, slower) for fold in range(len(networks)) for slower in (False, True)}
    moved = any(history.best_epoch >= 0 for stage, history in ctx.histories.items() if stage in stages)
    alone = f"linear {ctx.target.model_word} on its features"
    note = f"fine-tuned, mean of {len(networks)} networks" if moved else alone
    return Tuned(block, held, moved, note)


def _untouched(ctx: Context, name: str, folds: Folds) -> Block:
    """The features of the encoder from before fine-tuning: honest about every training row, and different."""
    encoder = ctx.frozen_encoder(name)
    with ctx.log.timed(ctx.seconds, "encode"):
        views = ctx.encode(name, encoder, folds.rows, ctx.views())
        plain = ctx.encode(name, encoder, folds.choice_rows)
    bare = EnsembleNetwork([encoder], [name], [blank_linear(encoder.dim, 1)], torch.zeros(1))
    return Block(free_name(name + PRETRAINED, ctx.modalities), name, [bare], False, views, plain, plain[0])


def words_block(ctx: Context, name: str, folds: Folds) -> Block | None:
    """Return the logits of a classifier on the words of a text modality (TF-IDF); None where it has no words.

    Asked for twice, it is solved once.
    """
    return ctx.remember(("words", name), lambda: _words_block(ctx, name, folds))


def _words_block(ctx: Context, name: str, folds: Folds) -> Block | None:
    source, augment = ctx.sources[name], ctx.augments[name]
    have = folds.rows[source.present[folds.rows]]
    if isinstance(source, BagSource) and isinstance(augment, BagAugment):
        have, source, augment = source.index[source.places(have)], source.elements, augment.one
    assert isinstance(source, TextSource)
    assert isinstance(augment, TextAugment)
    counts_of = WordCounts.fit([source.text(text) for text in have], augment.special)
    if not counts_of.dim:
        return None
    encoder = (Bagged.of(counts_of, "mean") if ctx.modalities[name].several else counts_of).to(ctx.runtime.device)
    with ctx.log.timed(ctx.seconds, "stage_u"):
        counts = ctx.encode(name, encoder, folds.rows)
        network, held = solve_crossed(ctx, name, encoder, counts, folds.rows, folds.head, words=True)
    return Block(
        free_name(name + WORDS, ctx.modalities), name, [network], True, _repeated(ctx, held), held[None], counts[0]
    )


def _both(ctx: Context, name: str, encoder: Encoder, rows: Rows) -> tuple[Array, Array]:
    """Return augmented views and the plain inputs of the same rows."""
    return ctx.encode(name, encoder, rows, ctx.views()), ctx.encode(name, encoder, rows)


def _repeated(ctx: Context, held: Array) -> Array:
    return np.broadcast_to(held, (ctx.config.views, *held.shape))


def logits_of_alone(network: EnsembleNetwork, z: Array) -> Array:
    """Return the logits of a modality's only classifier for features of any shape [..., dim]."""
    _, classifier = network.only
    with torch.inference_mode():
        logits: Tensor = classifier(torch.from_numpy(np.array(z)).to(network.device))
    return logits.cpu().numpy()
