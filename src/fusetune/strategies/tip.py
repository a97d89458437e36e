"""TIP: columns and what is beside them are pre-trained together, so that missing cells cost little (arXiv 2407.07582).

A missing cell is one learnt token that no other column sees (`encoders.columns.ColumnTokens`); a multimodal module lets
the columns' tokens look at those of the other modalities (`heads.tip.TIPHead`). Pre-training needs no labels:

    L = (L_ITC + L_ITM + L_MTR) / 3
    L_ITC = lambda0 CE(rows of U V^T / tau) + (1 - lambda0) CE(its columns), u and v unit projections of the features of
            what is beside the columns and of their class token; the diagonal is the right answer
    L_ITM = 2-class CE on the module's class token: B pairs that belong together, and per row one with a foreign table
            and one with a foreign picture, drawn by softmax of the ITC similarities + 1e-4, never the row's own
    L_MTR = (mean CE of masked categories over the union of all categories + mean squared error of masked numbers) / 2

ITC and ITM see a table of which int(.3 D) cells come from their column's marginal, MTR one of which round(.5 D) cells
are masked. Then everything is fine-tuned by CE(f, y), f = mean of the logits of linear classifiers on the picture, on
the class token and on the module's class token.

What differs: width 32 and two layers, for CPUs; one pooled token per modality beside the columns, of any kind and
number; the numbers of one date are corrupted and masked together; cells that are missing are not reconstructed, and
where a table has only numbers or only categories, L_MTR is their mean alone; pre-training sees rows that have columns
and something beside them; the classifiers start from their solution on pre-trained features (arXiv 2202.10054), and
those that a row gives nothing to read are left out of its mean. Epochs of pre-training are few, and the last one is
kept; the rates are those of the encoders' own settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fusetune.augment.cell_noise import CellAugment
from fusetune.config import EncoderConfig, MixPolicy
from fusetune.context import Context
from fusetune.data.cells import MISSING
from fusetune.data.schema import free_name
from fusetune.data.source import to_device
from fusetune.data.split import Rows
from fusetune.encoders import ColumnTokens
from fusetune.encoders.columns import known_cells
from fusetune.encoders.layers import blank_linear
from fusetune.errors import ConfigError
from fusetune.heads.base import HeadData
from fusetune.heads.tip import TIPHead
from fusetune.networks import FusionNetwork, Outputs, Wiring
from fusetune.networks.run import present_bits
from fusetune.strategies.base import WHOLE, Fitted
from fusetune.strategies.batch import Batch
from fusetune.strategies.end_to_end import EndToEnd, EndToEndSettings
from fusetune.strategies.majority import prior_of
from fusetune.strategies.trainer import Training, by_batch, run_training
from fusetune.strategies.unimodal import probe_on
from fusetune.train.optim import weight_groups

_LEAST = 1e-4  # beside the similarities that hard negatives are drawn by
_ROWS = 256  # rows that the multimodal module reads at once, where nothing is learnt


class TIPSettings(EndToEndSettings):
    """The loop of fine-tuning, and how the network is built and pre-trained."""

    width: int = Field(32, ge=4, le=1024, description="width of a token; a multiple of attention_heads")
    depth: int = Field(2, ge=1, le=12, description="layers of the columns' encoder, and of the multimodal module")
    attention_heads: int = Field(4, ge=1, description="heads of attention")
    pretrain_epochs: int = Field(30, ge=0, description="epochs without labels, before those with them; 0: none")
    corrupt: float = Field(0.3, ge=0, le=1, description="share of a row's cells that ITC and ITM see corrupted")
    mask: float = Field(0.5, ge=0, le=1, description="share of a row's cells that are to be reconstructed")
    temperature: float = Field(0.1, gt=0, description="tau, of ITC")
    balance: float = Field(0.5, ge=0, le=1, description="lambda0, of ITC: what finding the table counts for")
    projection: int = Field(128, ge=1, description="width of the projections that ITC compares")
    tune: Literal["all", "classifiers"] = Field(
        "all", description="what labels train: everything, or the classifiers on what pre-training left"
    )


@dataclass(frozen=True)
class CellViews:
    """How tables are corrupted and masked.

    Attributes:
        groups: The column that each number, then each category belongs to, counted from 0: a date has three numbers.
        donors: Cells of the training rows, as encoders take them.
        places: Rows of `donors` that have a cell of each column, int64 [columns, rows], filled up with anything.
        counts: How many these are, int64 [columns].
    """

    groups: Tensor
    donors: dict[str, Tensor]
    places: Tensor
    counts: Tensor

    @classmethod
    def of(cls, donors: dict[str, Tensor], numbers: Sequence[int] | None = None) -> CellViews:
        """Look for the cells of each column that are there; `numbers` is the column of each number, as `groups`."""
        columns = list(range(donors["numbers"].shape[1]) if numbers is None else numbers)
        first = max(columns, default=-1) + 1
        groups = torch.tensor([*columns, *range(first, first + donors["codes"].shape[1])], dtype=torch.long)
        known, count = known_cells(donors), int(groups.max()) + 1
        has = torch.stack([known[:, groups == column].all(1) for column in range(count)])
        # Those that are there come first, in the order of the rows.
        places = torch.sort((~has).long(), dim=1, stable=True).indices
        return cls(groups.to(known.device), donors, places, has.sum(1))

    def chosen(self, rows: int, count: int) -> Tensor:
        """Choose exactly so many columns of each row, bool [rows, numbers + categories]."""
        order = torch.rand(rows, len(self.counts)).argsort(1).argsort(1)
        return (order < count).to(self.groups.device)[:, self.groups]

    def corrupted(self, cells: dict[str, Tensor], share: float) -> dict[str, Tensor]:
        """Return cells of which int(share D) columns of each row have a value from the column's marginal."""
        rows, at = len(cells["numbers"]), cells["numbers"].shape[1]
        hit = self.chosen(rows, int(share * len(self.counts))) & (self.counts > 0)[self.groups]
        drawn = (torch.rand(rows, len(self.counts)).to(self.counts.device) * self.counts).long()
        donor = self.places.T.gather(0, drawn.clamp(max=self.places.shape[1] - 1))[:, self.groups]
        taken = {name: pool.gather(0, donor[:, at:] if name == "codes" else donor[:, :at])
                 for name, pool in self.donors.items()}  # fmt: skip
        return {
            name: torch.where(hit[:, at:] if name == "codes" else hit[:, :at], taken[name], own)
            for name, own in cells.items()
        }

    def masked(self, cells: dict[str, Tensor], share: float) -> tuple[dict[str, Tensor], Tensor]:
        """Return cells of which round(share D) columns of each row are missing, and which ones were there before."""
        at = cells["numbers"].shape[1]
        hit = self.chosen(len(cells["numbers"]), round(share * len(self.counts)))
        masked = {
            "numbers": cells["numbers"].masked_fill(hit[:, :at], 0.0),
            "missing": cells["missing"] | hit[:, :at],
            "codes": cells["codes"].masked_fill(hit[:, at:], MISSING),
        }
        return masked, hit & known_cells(cells)


def contrast(u: Tensor, v: Tensor, temperature: float, balance: float) -> tuple[Tensor, Tensor]:
    """Return L_ITC and the similarities divided by tau, [rows, rows], from unit vectors [rows, width]."""
    similar, own = u @ v.T / temperature, torch.arange(len(u), device=u.device)
    loss = balance * F.cross_entropy(similar, own) + (1 - balance) * F.cross_entropy(similar.T, own)
    return loss, similar


@torch.no_grad()
def hard_negatives(similar: Tensor) -> Tensor:
    """Draw for each row another one by softmax(similarities) + 1e-4, int64 [rows], from [rows, rows]; two at least."""
    weights = torch.softmax(similar.float(), 1) + _LEAST
    return torch.multinomial(weights.fill_diagonal_(0.0), 1)[:, 0]


class Pretraining(nn.Module):
    """What learns beside the network while it is pre-trained.

    Args:
        dims: Width of the features of each modality beside the columns.
        sizes: Number of codes of each categorical column.
        settings: Widths and shares.
        views: How tables are corrupted and masked.
    """

    def __init__(self, dims: Mapping[str, int], sizes: Sequence[int], settings: TIPSettings, views: CellViews) -> None:
        super().__init__()
        self.settings, self.views, self.names = settings, views, list(dims)
        self.beside = nn.ModuleList(nn.Linear(dim, settings.projection) for dim in dims.values())
        self.table = nn.Linear(settings.width, settings.projection)
        self.match = nn.Linear(settings.width, 2)
        self.number = nn.Linear(settings.width, 1)
        self.category = nn.Linear(settings.width, max(1, sum(sizes)))
        starts = np.concatenate([[0], np.cumsum(sizes)])[:-1]
        self.register_buffer("offsets", torch.from_numpy(starts.astype(np.int64)), persistent=False)

    def units(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return u, the mean projection of what a row has beside its columns at length 1, [rows, projection]."""
        parts = [layer(z[name]) * present[name][:, None] for name, layer in zip(self.names, self.beside, strict=True)]
        count = torch.stack([present[name] for name in self.names], 1).sum(1, keepdim=True).clamp(min=1)
        return F.normalize(torch.stack(parts).sum(0) / count, dim=1)

    def losses(
        self,
        encoder: ColumnTokens,
        head: TIPHead,
        z: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        cells: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        """Return L_ITC, L_ITM (of two rows and more) and L_MTR of rows that have columns and something beside them.

        Args:
            encoder: Of the columns.
            head: Holds the multimodal module.
            z: Features of the other modalities, [rows, dim].
            present: Which are there, bool [rows].
            cells: Numbers, missing and codes of the rows, as they are.
        """
        others, seen = head.beside(z, present)
        found = {"mtr": self.reconstruction(encoder, head, others, seen, cells)}
        if len(others) > 1:
            tokens = head.tokens(encoder(self.views.corrupted(cells, self.settings.corrupt)))
            v = F.normalize(self.table(tokens[:, 0]), dim=1)
            found["itc"], similar = contrast(
                self.units(z, present), v, self.settings.temperature, self.settings.balance
            )
            found["itm"] = self.matching(head, tokens, others, seen, similar)
        return found

    def matching(self, head: TIPHead, tokens: Tensor, others: Tensor, seen: Tensor, similar: Tensor) -> Tensor:
        """Return L_ITM; `similar` has what is beside the columns in its rows and tables in its columns."""
        table, picture = hard_negatives(similar), hard_negatives(similar.T)
        fused = head.across(
            torch.cat([tokens, tokens[table], tokens]),
            torch.cat([others, others, others[picture]]),
            torch.cat([seen, seen, seen[picture]]),
        )
        logits = self.match(fused[:, 0])
        belong = (torch.arange(len(logits), device=logits.device) < len(tokens)).long()
        return F.cross_entropy(logits, belong)

    def reconstruction(
        self, encoder: ColumnTokens, head: TIPHead, others: Tensor, seen: Tensor, cells: dict[str, Tensor]
    ) -> Tensor:
        """Return L_MTR."""
        masked, asked = self.views.masked(cells, self.settings.mask)
        tokens = head.across(head.tokens(encoder(masked)), others, seen)[:, 1:]
        at = cells["numbers"].shape[1]
        errors = (self.number(tokens[:, :at])[..., 0] - cells["numbers"]).square()
        parts = [_mean(errors, asked[:, :at])] if at else []
        if cells["codes"].shape[1]:
            target = cells["codes"] + self.get_buffer("offsets")
            losses = F.cross_entropy(self.category(tokens[:, at:]).transpose(1, 2), target, reduction="none")
            parts.append(_mean(losses, asked[:, at:]))
        return torch.stack(parts).mean()


def _mean(values: Tensor, which: Tensor) -> Tensor:
    return (values * which).sum() / which.sum().clamp(min=1)


class TIP(EndToEnd):
    """Pre-training without labels, then the mean of all classifiers' logits."""

    name, title, paper = "tip", "TIP", "Tabular-image pre-training, arXiv 2407.07582"
    cost = "one training of all encoders without labels, in which columns pass twice, then one with them"
    Settings = TIPSettings

    @classmethod
    def fit(cls, ctx: Context, settings: Any) -> Fitted:
        """Pre-train on the training rows, then fine-tune on them; the validation rows choose penalties and the epoch.

        Raises:
            ConfigError: If there are no columns, nothing beside them, or heads that do not divide the width.
        """
        _check(ctx, settings)
        fitted = super().fit(ctx, settings)
        epochs = settings.pretrain_epochs
        how = f"pre-trained for {epochs} epochs" if epochs else "not pre-trained"
        notes: dict[str | None, str] = dict.fromkeys(ctx.modalities, f"{how}, then a classifier on it")
        notes[WHOLE] = f"{how}, then {fitted.notes[WHOLE]}"
        return replace(fitted, notes=notes)

    def __init__(self, ctx: Context, settings: Any) -> None:
        super().__init__(ctx, settings)
        train, augment = ctx.split.rows("train"), ctx.augments[self.columns]
        assert isinstance(augment, CellAugment)
        donors: Any = to_device(ctx.sources[self.columns].read(train), ctx.runtime.device)
        views = CellViews.of(donors, augment.columns)
        dims = {name: encoder.dim for name, encoder in self.network.members if name != self.columns}
        self.pretraining = Pretraining(dims, ctx.pristine[self.columns].arguments["categories"], settings, views)

    @classmethod
    def prepare(cls, ctx: Context, settings: Any) -> None:
        """Nothing: training starts from encoders as they are."""

    def start(self) -> FusionNetwork:
        """Return the encoders as they were, with one of tokens for the columns, under classifiers that are zero."""
        ctx, settings, names = self.ctx, self.settings, list(self.ctx.modalities)
        shape = {"width": settings.width, "depth": settings.depth, "heads": settings.attention_heads}
        described = ctx.pristine[self.columns].arguments
        encoders = [
            ColumnTokens(described["numbers"], described["categories"], **shape)
            if name == self.columns
            else ctx.fresh_encoder(name)
            for name in names
        ]
        dims = {name: encoder.dim for name, encoder in zip(names, encoders, strict=True)}
        head = TIPHead(dims, len(ctx.classes), columns=self.columns, **shape)
        head.get_buffer("prior").copy_(prior_of(ctx))
        # Columns have no scale of their own: their tokens leave a normalisation.
        rows = ctx.split.rows("train")
        head.fit_scale(HeadData.of(ctx, {n: ctx.encode(n, ctx.frozen_encoder(n), rows) for n in head.others}, rows))
        places = {name: at for at, name in enumerate(names)}
        classifiers = [blank_linear(dim, len(ctx.classes)) for dim in dims.values()]
        return FusionNetwork(
            encoders, classifiers, head, Wiring(names, {n: [at] for n, at in places.items()}, places, [])
        )

    @property
    def columns(self) -> str:
        """The modality that the columns are."""
        return next(name for name, modality in self.ctx.modalities.items() if modality.kind == "columns")

    @property
    def head(self) -> TIPHead:
        """The head of the network."""
        head = self.network.head
        assert isinstance(head, TIPHead)
        return head

    def begin(self) -> None:
        """Pre-train, and solve the classifiers."""
        if self.settings.pretrain_epochs:
            what = self.pretraining_on(self.ctx.split.rows("train"), self.ctx.split.rows("valid"))
            run_training(self.ctx, what)
            # Every row's columns went through their encoder twice.
            self.ctx.trained_rows[self.columns] += self.ctx.histories[what.stage].rows_seen
            self.requires_grad_(True)
        self.solve()

    def pretraining_on(self, rows: Rows, held: Rows) -> Training:
        """Return what is pre-trained, for the common code; the held rows choose nothing."""
        plain = {"epochs": self.settings.pretrain_epochs, "mix": MixPolicy(), "patience": 0}
        return replace(
            super().training_on(rows, held),
            stage=free_name(f"{self.stage}, pre-training", self.ctx.modalities),
            loop=self.settings.model_copy(update=plain),
            gradients=by_batch(self.ctx, self.pretraining_loss),
            start_counts=False,
            keep="last",
        )

    def pretraining_loss(self, batch: Batch) -> Tensor:
        """Return the mean of L_ITC, L_ITM and L_MTR over the rows that have columns and something beside them."""
        network, columns, repeats = self.network, self.columns, len(batch.target) // len(batch.rows)
        others = {name: bits for name, bits in batch.present.items() if name != columns}
        pair = batch.present[columns] & torch.stack(list(others.values())).any(0)
        z = {name: batch.encoded(name, encoder) for name, encoder in network.members if name != columns}
        if not bool(pair.any()):
            return torch.stack([own.sum() for own in z.values()]).sum() * 0.0
        read: Any = to_device(self.ctx.sources[columns].read(batch.rows), self.ctx.runtime.device)
        cells = {name: own.repeat(repeats, 1)[pair] for name, own in read.items()}
        encoder = dict(network.members)[columns]
        assert isinstance(encoder, ColumnTokens)
        has = {name: bits[pair] for name, bits in others.items()}
        losses = self.pretraining.losses(encoder, self.head, {n: own[pair] for n, own in z.items()}, has, cells)
        return torch.stack(list(losses.values())).mean()

    @torch.no_grad()
    def solve(self) -> None:
        """Start every classifier from its solution on the features as they are."""
        ctx, names = self.ctx, [*self.head.others, self.columns, f"{self.columns} and what is beside them"]
        self.eval()
        train, valid = (self._read(rows, names) for rows in (ctx.split.rows("train"), ctx.split.rows("valid")))
        solved = {name: probe_on(ctx, name, train, valid, name) for name in names}
        for layer, name in zip(self.head.linears, names, strict=True):
            layer.load_state_dict(solved[name].state_dict())
        for name, classifier in zip(self.network.wiring.networks, self.network.classifiers, strict=True):
            assert isinstance(classifier, nn.Linear)
            classifier.weight[:, : solved[name].in_features] = solved[name].weight  # of columns, the class token's
            classifier.bias.copy_(solved[name].bias)

    def _read(self, rows: Rows, names: Sequence[str]) -> HeadData:
        """Return what each classifier reads of some rows, as blocks of these names."""
        ctx, device = self.ctx, self.ctx.runtime.device
        z = {
            name: torch.from_numpy(ctx.encode(name, encoder, rows)[0].copy()) for name, encoder in self.network.members
        }
        has = present_bits(ctx.sources, rows, torch.device("cpu"))
        blocks: list[list[Tensor]] = [[] for _ in names]
        bits: list[list[Tensor]] = [[] for _ in names]
        for first in range(0, len(rows), _ROWS):
            some = slice(first, first + _ROWS)
            parts = self.head.read(
                {name: own[some].to(device) for name, own in z.items()},
                {name: own[some].to(device) for name, own in has.items()},
            )
            for at, (block, there) in enumerate(parts):
                blocks[at].append(block.cpu())
                bits[at].append(there.cpu())
        return HeadData(
            {name: torch.cat(own).float().numpy()[None] for name, own in zip(names, blocks, strict=True)},
            {name: torch.cat(own).numpy() for name, own in zip(names, bits, strict=True)},
            ctx.labels[rows],
            ctx.row_weights(rows),
            ctx.keys[rows],
            sample_weight=ctx.counted(rows),
        )

    def loss(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return CE(f, y)."""
        return batch.loss(outputs.f)

    def training_on(self, rows: Rows, held: Rows) -> Training:
        """Return what labels train, for the common code."""
        what = super().training_on(rows, held)
        if self.settings.tune == "all":
            return what
        self.requires_grad_(False)
        linears = [*self.head.linears.parameters(), *self.network.classifiers.parameters()]
        for p in linears:
            p.requires_grad_(True)
        fixed: dict[str, EncoderConfig] = {
            name: own.model_copy(update={"freeze": 1.0, "lora_rank": 0}) for name, own in what.encoders.items()
        }
        return replace(
            what, encoders=fixed, groups=weight_groups(linears, self.settings.head_lr, self.settings.head_decay)
        )


def _check(ctx: Context, settings: TIPSettings) -> None:
    kinds = [modality.kind for modality in ctx.modalities.values()]
    if "columns" not in kinds or len(kinds) < 2:
        lacking = "something beside the columns" if "columns" in kinds else "columns of numbers or categories"
        raise ConfigError(
            f"strategy.name: TIP reads columns together with pictures, texts or vectors, and there is no input that is "
            f"{lacking}; name one with --inputs, or take another strategy such as two-stage"
        )
    if settings.width % settings.attention_heads:
        raise ConfigError(
            f"strategy.width: {settings.width} values of a token cannot be divided among "
            f"{settings.attention_heads} attention_heads; take a multiple"
        )
