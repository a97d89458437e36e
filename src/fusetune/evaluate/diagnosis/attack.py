"""How far a model can be pushed by small changes of features that are made against it: projected gradient descent.

    delta <- clip(delta + 2.5 eps / 10 * sign(d L(f(z + delta), y) / d delta), -eps, eps),   10 steps from delta = 0

L is the loss of the target: cross-entropy (of several labels their sum), or half the squared error of a number (Madry
et al. 2018, arXiv 1706.06083), after the encoders. The radius is relative: eps = r times each feature's own deviation
over the rows. One modality is attacked, or all at once. Of the ten steps each row keeps the one with the highest loss,
or none where every step helps it.

This is EMPIRICAL ONLY AND CERTIFIES NOTHING: what withstands this attack may fall to another one, and changes of
features need not be what any change of a picture or a text can reach.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fusetune.data.schema import free_name
from fusetune.evaluate.diagnosis.asked import ALL, Asked, Diagnosed, plain_answers
from fusetune.evaluate.diagnosis.curves import Curve, curves, judged_rows
from fusetune.evaluate.modalities import Probe
from fusetune.progress import track

RADII = (0.1, 0.25, 0.5)
STEPS = 10
WARNING = "empirical only: it certifies nothing, and other changes may do more"


@dataclass(frozen=True)
class Attack:
    """Features under attack.

    Attributes:
        curves: One per modality, and one for all together, over the radius in deviations of each feature.
        steps: How many.
        warning: What the numbers are not.
    """

    curves: list[Curve]
    steps: int
    warning: str


def attack_features(model: Diagnosed, asked: Asked, *, resamples: int, seed: int) -> Attack:
    """Attack each modality, and all of them at once.

    Args:
        model: The saved model.
        asked: The rows.
        resamples: Bootstrap samples behind each interval.
        seed: Of the resamples; the attack itself draws nothing.
    """
    probe, y = model.probe(asked), asked.judged.labels
    targets = {name: [name] for name in model.modalities}
    if len(targets) > 1:
        targets[free_name(ALL, targets)] = list(targets)
    spread = {name: _spread(asked, name) for name in model.modalities}
    plain, right, lost = plain_answers(probe), {}, {}
    aims = probe.measure.target.tensor(y)
    for title, names in targets.items():
        versions = [plain]
        for radius in track(RADII, f"attacking {title}"):
            reach = {name: radius * spread[name] for name in names}
            versions.append(probe.again(asked.judged.outputs.present, attacked(probe, aims, reach)))
        right[title], lost[title] = judged_rows(versions, y, probe.measure)
    how = {"resamples": resamples, "seed": seed}
    found = curves((0.0, *RADII), right, lost, y, asked.judged.groups, probe.measure, **how)
    return Attack(found, STEPS, WARNING)


def attacked(probe: Probe, labels: Tensor, reach: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return features of some modalities that are pushed against the labels.

    Args:
        probe: The network and its outputs.
        labels: As the target's losses take them, [rows].
        reach: How far each feature may move, by modality, float [dim] each: no other modality is moved.

    Returns:
        By modality, float32 [rows, dim], each feature at most `reach` from where it was.
    """
    # What was computed in inference mode takes part in no gradient: it is copied.
    own = {name: probe.outputs.z[name].clone() for name in reach}
    delta = {name: torch.zeros_like(z) for name, z in own.items()}
    best, worst = {name: z.clone() for name, z in own.items()}, _losses(probe, own, labels)[0].detach()
    for _ in range(STEPS):
        asked = {name: (own[name] + delta[name]).requires_grad_() for name in own}
        _, total = _losses(probe, asked, labels)
        slopes = torch.autograd.grad(total, list(asked.values()), allow_unused=True)
        for (name, step), slope in zip(delta.items(), slopes, strict=True):
            if slope is not None:  # of what the network does not read there is none
                moved = step + 2.5 / STEPS * reach[name] * slope.sign()
                delta[name] = torch.maximum(torch.minimum(moved, reach[name]), -reach[name])
        there = {name: own[name] + delta[name] for name in own}
        loss = _losses(probe, there, labels)[0].detach()
        worse = loss > worst
        worst = torch.where(worse, loss, worst)
        best = {name: torch.where(worse[:, None], there[name], z) for name, z in best.items()}
    return best


def _losses(probe: Probe, z: Mapping[str, Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of each row, [rows], and their sum."""
    network, outputs = probe.network, probe.outputs
    present = {name: bits.to(network.device) for name, bits in outputs.present.items()}
    features = {name: z[name] if name in z else stored.clone() for name, stored in outputs.z.items()}
    masked = {
        name: torch.where(present[name][:, None], block.to(network.device), 0.0) for name, block in features.items()
    }
    with torch.enable_grad():
        f = network.fuse(masked, present).f.cpu() / torch.as_tensor(probe.temperature, dtype=torch.float64)
        losses = probe.measure.target.losses(f, labels)
    return losses, losses.sum()


def _spread(asked: Asked, name: str) -> Tensor:
    z, has = asked.judged.outputs.z[name], asked.has(name)
    return z[torch.from_numpy(has)].std(0, correction=0) if np.any(has) else torch.zeros(z.shape[1])
