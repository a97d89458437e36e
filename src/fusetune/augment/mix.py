"""MixUp and CutMix with one partner and one weight per row, for every modality and the label alike.

MixUp (arXiv 1710.09412) takes weighted means, CutMix (arXiv 1905.04899) pastes a rectangle of the partner's picture.
Mixing some modalities and the label but not the others would teach that a label can disagree with what it labels; here
all of them are read from one `Mixing`. Pictures, numbers and vectors are mixed as inputs. Texts are mixed where they
are vectors, at the output of their encoder (Guo et al. 2019, arXiv 1905.08941): ids have no means. So are rows that
have several pictures or texts.

A partner can only be another row of the batch, so it depends on which rows the batch has, but on nothing else: not on
their order, the device or the number of workers. Batches are a function of (seed, epoch), and so is a run's mixing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional as F

from fusetune.augment.random import Moment, integers, uniform
from fusetune.config import MixPolicy

# Rows with several elements, of whatever kind.
BAG = "bag"
# Kinds of input that are mixed at the output of their encoder.
EMBEDDED = ("text", BAG)
# (logits, labels, label smoothing) -> the loss of each row.
Loss = Callable[[Tensor, Tensor, float], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Return the cross-entropy of each row, float [rows]."""
    return F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")


@dataclass(frozen=True)
class Mixing:
    """Who is mixed with whom, and how much.

    Attributes:
        partner: Place of each row's partner in the batch, a permutation, int64 [rows]; a row without one is its own.
        weight: Share of the row itself, float32 [rows]; the rest is its partner's.
        box: For CutMix: left, top, right and bottom of the pasted rectangle in pixels, int64 [rows, 4].
        cells: Uniform numbers that decide from which row cells come that have no means, float32 [rows].
        side: For CutMix: side in pixels of the pictures that `box` is for.
    """

    partner: Tensor
    weight: Tensor
    cells: Tensor
    box: Tensor | None = None
    side: int | None = None

    def blend(self, x: Tensor) -> Tensor:
        """Return weight * x + (1 - weight) * x of the partner, for x float [rows, ...]: vectors and embeddings."""
        own = self.weight.to(x.dtype).view(-1, *[1] * (x.ndim - 1))
        # Written so that a row that is not mixed stays bit-equal.
        return torch.where(own == 1, x, own * x + (1 - own) * x[self.partner])

    def images(self, x: Tensor) -> Tensor:
        """Paste rectangles (CutMix) or take weighted means (MixUp) of pictures, [rows, channels, side, side]."""
        if self.box is None:
            return self.blend(x)
        if x.shape[-2:] != (self.side, self.side):
            raise ValueError(f"the rectangles are for pictures of {self.side} pixels, got {tuple(x.shape[-2:])}")
        at = torch.arange(x.shape[-1], device=x.device)
        left, top, right, bottom = self.box[:, :, None].unbind(1)
        inside = ((at >= top) & (at < bottom))[:, :, None] & ((at >= left) & (at < right))[:, None, :]
        return torch.where(inside[:, None], x[self.partner], x)

    def columns(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Mix cells: weighted means of numbers that both rows know.

        Codes, and numbers that only one of the two knows, have no mean: all of these come from one of the two rows,
        with the probability of its weight.
        """
        numbers, missing, codes = inputs["numbers"], inputs["missing"], inputs["codes"]
        theirs = missing[self.partner]
        taken = (self.cells >= self.weight)[:, None]
        picked = torch.where(taken, numbers[self.partner], numbers)
        return {
            "numbers": torch.where(missing | theirs, picked, self.blend(numbers)),
            "missing": torch.where(taken, theirs, missing),
            "codes": torch.where(taken, codes[self.partner], codes),
        }

    def inputs(self, kind: str, inputs: Any) -> Any:
        """Mix one modality's inputs by its kind; those of kinds in `EMBEDDED` are left for `blend` to mix later."""
        match kind:
            case "image":
                return self.images(inputs)
            case "columns":
                return self.columns(inputs)
            case "vector":
                return self.blend(inputs)
            case _:
                return inputs

    def only(self, has: Tensor) -> Mixing:
        """Return the mixing of the rows where `has`, bool [rows], counted among themselves.

        Raises:
            ValueError: If a partner is not among them.
        """
        if not bool(has[self.partner[has]].all()):
            raise ValueError("a row that has this modality is mixed with one that lacks it")
        place = has.long().cumsum(0) - 1
        box = None if self.box is None else self.box[has]
        return Mixing(place[self.partner[has]], self.weight[has], self.cells[has], box, self.side)

    def loss(
        self, logits: Tensor, labels: Tensor, weights: Tensor, smoothing: float = 0.0, loss: Loss = cross_entropy
    ) -> Tensor:
        """Return weight * (own label's loss) + (1 - weight) * (partner's label's loss) per row, float [rows].

        Each label's loss has the weight of the row that it comes from (class weights included), and label smoothing.
        This is the cross-entropy with soft labels: q_c = sum_k share_k w_k ((1 - smoothing) [c = y_k] + smoothing / C).

        Args:
            logits: [rows, classes].
            labels: Class index, int64 [rows], or as another loss takes them, rows first.
            weights: Loss weight of each row, [rows].
            smoothing: Label smoothing (arXiv 1512.00567).
            loss: Of each row, [rows], for logits, labels and smoothing.
        """
        own = plain_loss(logits, labels, weights, smoothing, loss)
        theirs = plain_loss(logits, labels[self.partner], weights[self.partner], smoothing, loss)
        return self.weight * own + (1 - self.weight) * theirs


def plain_loss(
    logits: Tensor, labels: Tensor, weights: Tensor, smoothing: float = 0.0, loss: Loss = cross_entropy
) -> Tensor:
    """Return the weighted loss of each row, float [rows]; arguments as in `Mixing.loss`."""
    return loss(logits, labels, smoothing) * weights


def draw_mixing(
    policy: MixPolicy, keys: Tensor, moment: Moment, *, side: int | None = None, present: Sequence[Tensor] = ()
) -> Mixing:
    """Draw partners and weights for a batch.

    The rows that lack the same modalities are brought into a random order, by a random number per row, and each row's
    partner is the next one. Rows that lack different modalities are never mixed: what would be left of a modality, and
    of the label, when half of a picture is mixed with none? A row that is alone in its pattern stays as it is.

    Args:
        policy: MixUp or CutMix.
        keys: Row keys, int64 [rows], all different.
        moment: Seed, epoch and view.
        side: Side in pixels of the batch's pictures, which CutMix needs.
        present: Which rows have each modality, bool [rows] each; none: all rows have all.

    Raises:
        ValueError: If CutMix is asked for without pictures.
    """
    device, keys = keys.device, keys.cpu()
    partner = torch.from_numpy(_partners(keys, moment, [bits.cpu().numpy() for bits in present]))
    u = uniform(moment, keys, "mix", 5)
    weight = betaincinv(policy.alpha, policy.alpha, u[:, 0].double().numpy())
    alone = partner == torch.arange(len(keys))
    weight = np.where((u[:, 1] >= policy.share) | alone, 1.0, weight)
    box = None
    if policy.kind == "cutmix":
        if side is None:
            raise ValueError("cutmix pastes rectangles of pictures, and this batch has none; use mixup")
        box = _boxes(weight, u[:, 2:4].double().numpy(), side)
        weight = 1 - (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) / side**2
    return Mixing(
        partner.to(device),
        torch.from_numpy(weight).to(device, torch.float32),
        u[:, 4].to(device),
        None if box is None else torch.from_numpy(box).to(device),
        side,
    )


def join_views(mixings: Sequence[Mixing]) -> Mixing:
    """Return the mixing of several views that lie one after the other: each is mixed within itself."""
    rows = len(mixings[0].partner)
    boxes = [mixing.box for mixing in mixings if mixing.box is not None]
    return Mixing(
        torch.cat([mixing.partner + view * rows for view, mixing in enumerate(mixings)]),
        torch.cat([mixing.weight for mixing in mixings]),
        torch.cat([mixing.cells for mixing in mixings]),
        torch.cat(boxes) if boxes else None,
        mixings[0].side,
    )


def mix_batch(
    inputs: Mapping[str, Any],
    kinds: Mapping[str, str],
    present: Mapping[str, Tensor],
    keys: Tensor,
    moments: Sequence[Moment],
    policy: MixPolicy,
) -> tuple[dict[str, Any], Mixing | None]:
    """Mix the inputs of all modalities, each view within itself.

    The outputs of the encoders of kinds in `EMBEDDED` are still to be mixed, ``mixing.blend(z)``, and so are the
    labels, ``mixing.loss``.

    Args:
        inputs: Encoder inputs by modality, of the rows that have it: all of the first view, then the next
            (first dimension = views x present.sum()).
        kinds: Kind of each modality.
        present: bool [rows] by modality.
        keys: Row keys, int64 [rows].
        moments: Seed, epoch and view of each view.
        policy: MixUp or CutMix.

    Returns:
        The mixed inputs, and what they were mixed by: None where the policy asks for nothing, or where it asks for
        CutMix and no row of the batch has a picture.
    """
    sides = [inputs[name].shape[-1] for name, kind in kinds.items() if kind == "image" and name in inputs]
    if policy.kind == "off" or (policy.kind == "cutmix" and not sides):
        return dict(inputs), None
    has = [present[name] for name in sorted(present)]
    mixings = [draw_mixing(policy, keys, moment, side=next(iter(sides), None), present=has) for moment in moments]
    mixing = join_views(mixings)
    views = {name: bits.repeat(len(moments)) for name, bits in present.items()}
    return {name: mixing.only(views[name]).inputs(kinds[name], some) for name, some in inputs.items()}, mixing


def _partners(keys: Tensor, moment: Moment, present: Sequence[npt.NDArray[np.bool_]]) -> npt.NDArray[np.int64]:
    """Return the place of each row's partner: the next row of its pattern in a random circle."""
    order = integers(moment, keys, "mix order", 1, 2**62)[:, 0].numpy()
    # Equal random numbers are all but impossible; the key decides, so that the order of the rows never does.
    circle = np.lexsort((keys.numpy(), order, *present))
    pattern = np.stack([np.zeros(len(keys), dtype=np.bool_), *present], 1)[circle]
    starts = np.flatnonzero(np.append(True, (pattern[1:] != pattern[:-1]).any(1)))
    partner = np.empty(len(keys), dtype=np.int64)
    for members in np.split(circle, starts[1:]):
        partner[members] = np.roll(members, -1)
    return partner


def _boxes(weight: npt.NDArray[np.float64], u: npt.NDArray[np.float64], side: int) -> npt.NDArray[np.int64]:
    """Return rectangles of about the area 1 - weight around a uniform centre, cut off at the border, [rows, 4]."""
    half = np.floor(side * np.sqrt(1 - weight)).astype(np.int64) // 2
    centre = np.floor(u * side).astype(np.int64)
    corners = [centre - half[:, None], centre + half[:, None]]
    box: npt.NDArray[np.int64] = np.clip(np.concatenate(corners, 1), 0, side)
    return box
