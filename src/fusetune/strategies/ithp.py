"""ITHP: one prime modality is squeezed through a chain of bottlenecks, each of which has to tell another modality
(Information-Theoretic Hierarchical Perception, arXiv 2404.09403). At prediction only the prime modality is needed.

    (mu_0, sigma_0) = e_0(x_0), b_0 = mu_0 + eps sigma_0;  (mu_k, sigma_k) = e_k(b_{k-1}), b_k alike
    IB_0 = KL_0 + beta |d_0(b_0) - x_1|^2,  IB_k = KL_k + gamma |d_k(b_k) - x_{k+1}|^2
    L = CE(f, y) + 2 / (beta + gamma) * sum_k lambda^k IB_k,  f = A [x_0 + shift h(b_last)] + a

KL_k is that of N(mu_k, sigma_k^2) to N(0, 1), and squares are means over a detector's features x_1, x_2, ..., which
are standardised and do not learn. As in the released code, KL is the mean over the bottleneck's values, which keeps its
weight beside the squares whatever the width (`variant: paper`: their sum, which KL is). Three modalities are published;
with two, the chain has one link, with more it goes on.

What detectors say is what their encoders say after stage U (`tuned`; else as they are): with end-to-end encoders, a
target that learns could become a constant. IB_k is taken over rows with the prime modality and, of the squares, the
detector; its noise is drawn apart from that of f. Where the prime modality is absent, f is a constant.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from fusetune.context import Context
from fusetune.errors import ConfigError, did_you_mean, listed
from fusetune.heads.base import HeadData
from fusetune.heads.bottleneck import BottleneckHead
from fusetune.heads.solver import fit_logistic
from fusetune.networks import FusionNetwork, Outputs, Wiring
from fusetune.strategies.batch import Batch
from fusetune.strategies.contrast import refuse_one_input
from fusetune.strategies.end_to_end import EndToEnd, EndToEndSettings
from fusetune.strategies.unimodal import fine_tune, probe


class ITHPSettings(EndToEndSettings):
    """The loop of training, and the chain."""

    prime: str | None = Field(None, description="the input that is squeezed and predicted from; default: the first")
    width: int = Field(64, ge=1, description="of the bottlenecks")
    beta: float = Field(8.0, gt=0, description="weight of telling the first detector")
    gamma: float = Field(32.0, gt=0, description="weight of telling each later detector")
    chain: float = Field(0.3, ge=0, description="lambda, factor on each link from the second on")
    shift: float = Field(1.0, ge=0, description="weight of the last bottleneck in what is classified")
    tuned: bool = Field(True, description="detectors are encoders after stage U, not as they were before")
    variant: Literal["paper", "released"] = Field(
        "released", description="KL over the bottleneck's values; paper: their sum, released: their mean"
    )


class ITHP(EndToEnd):
    """The prime modality's classifier, with what a chain of bottlenecks keeps of it for the others."""

    name, title, paper = "ithp", "ITHP", "Information-theoretic hierarchical perception, arXiv 2404.09403"
    together = "the prime encoder, its chain and its head together"
    cost = "the training of every other encoder alone, then one of the prime encoder with passes of the others, frozen"
    Settings = ITHPSettings

    def __init__(self, ctx: Context, settings: Any) -> None:
        refuse_one_input(ctx, self.name)
        names = list(ctx.modalities)
        prime = settings.prime or names[0]
        if prime not in names:
            raise ConfigError(
                f"strategy.prime: there is no input '{prime}'{did_you_mean(prime, names)}; "
                f"the inputs are {listed(names)}"
            )
        self._chain = (prime, [name for name in names if name != prime])
        super().__init__(ctx, settings)
        self.still = frozenset(self._chain[1])
        width, dims = settings.width, self.bottleneck_head.dims
        self.decoders = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dims[name])) for name in self._chain[1]
        )

    @classmethod
    def prepare(cls, ctx: Context, settings: Any) -> None:
        """Nothing: the start is a chain of its own."""

    def start(self) -> FusionNetwork:
        """Return trained detectors, and the prime encoder under the classifier that is solved on its features."""
        ctx, names, (prime, detectors) = self.ctx, list(self.ctx.modalities), self._chain
        train, valid = ctx.split.rows("train"), ctx.split.rows("valid")
        found = {prime: ctx.fresh_encoder(prime)} | {name: ctx.fresh_encoder(name) for name in detectors}
        if self.settings.tuned:
            found |= {name: copy.deepcopy(fine_tune(ctx, name).only[0]) for name in detectors}
        data, held = (
            HeadData.of(ctx, {name: ctx.encode(name, encoder, rows) for name, encoder in found.items()}, rows)
            for rows in (train, valid)
        )
        head = BottleneckHead({n: found[n].dim for n in names}, len(ctx.classes), prime, self.settings.width,
                              self.settings.shift)  # fmt: skip
        head.fit_scale(data)
        fit = fit_logistic(_of(data, prime), _of(held, prime), ctx.config.head, len(ctx.classes), ctx.config.seed)
        fit.tell(ctx.log, "head", f"head on {prime}", blocks=[prime])
        head.linear.load_state_dict(fit.head.get_submodule("linear").state_dict())
        classifiers = [probe(ctx, name, found[name], train, valid, name) for name in names]
        places = {name: at for at, name in enumerate(names)}
        wiring = Wiring(names, {name: [at] for name, at in places.items()}, places, [])
        return FusionNetwork([found[name] for name in names], classifiers, head, wiring)

    def encoder_note(self, name: str, epoch: int) -> str:
        """Say what became of an encoder when so many epochs are kept."""
        alone = self.settings.tuned and name in self.still
        return "encoder trained alone" if alone else super().encoder_note(name, epoch)

    @property
    def bottleneck_head(self) -> BottleneckHead:
        """The head of the network."""
        assert isinstance(self.network.head, BottleneckHead)
        return self.network.head

    def loss(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return CE(f, y) + 2 / (beta + gamma) IB."""
        how = self.settings
        share: float = 2 / (how.beta + how.gamma)
        return batch.loss(outputs.f) + share * self.bottleneck(batch, outputs)

    def bottleneck(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return sum_k lambda^k IB_k."""
        how, head, (prime, detectors) = self.settings, self.bottleneck_head, self._chain
        total, has = outputs.f.new_zeros(()), batch.present[prime]
        links = zip(detectors, head.chain(outputs.z, batch.present), self.decoders, strict=True)
        for at, (name, state, decoder) in enumerate(links):
            kl = divergence(state.mean, state.log_variance, summed=how.variant == "paper")
            mean, deviation = head.statistics(name)
            target = ((outputs.z[name] - mean) / deviation).detach()
            squares = (decoder(state.sample) - target).square().mean(1)
            weight = how.beta if at == 0 else how.gamma
            link = _mean(kl, has) + weight * _mean(squares, has & batch.present[name])
            total = total + how.chain**at * link
        return total


def divergence(mean: Tensor, log_variance: Tensor, *, summed: bool = False) -> Tensor:
    """Return KL(N(mean, variance) || N(0, 1)) of values [rows, width], their mean or their sum, [rows], in nats."""
    each = (mean.square() + log_variance.exp() - log_variance - 1) / 2
    return each.sum(1) if summed else each.mean(1)


def _mean(losses: Tensor, has: Tensor) -> Tensor:
    return (losses * has).sum() / has.sum().clamp(min=1)


def _of(data: HeadData, name: str) -> HeadData:
    """Keep one block, of all rows, also of those without it."""
    return replace(data, z={name: data.z[name]}, present={name: data.present[name]})
