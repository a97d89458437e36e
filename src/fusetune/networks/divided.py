"""Encoders whose passes are divided among the ranks of a run, so that all else sees the whole batch.

Every rank encodes its share of a batch's rows. The features of all are put together, and from there on each rank
computes the same: fusion, loss, and whatever a method makes of them, on the whole batch. On the way back each rank
sends the gradient of its own rows through the encoder, and the weights' gradients are summed before anybody sees them.
So losses, contrasts between rows, gradient surgery and statistics are those of one process, and methods need not know
of ranks (`Divided`).

Within an encoder, batch norm counts the rows of all ranks, forwards and back, and dropout draws for all rows and takes
what belongs to this rank's (`_WholeBatch`). What else is random there, and dropout on a GPU, which draws in an order of
its own, or of rows that have several elements, comes from a stream of each rank's own (`Ranks.own_draws`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fusetune.encoders import Encoder
from fusetune.networks.base import Network, encoded
from fusetune.ranks import Ranks


def encode(
    network: Network, inputs: Mapping[str, Any], present: Mapping[str, Tensor], views: int, ranks: Ranks
) -> dict[str, Tensor]:
    """Return the features of a batch by modality, as `Network.encode` does, divided among the ranks.

    Args:
        network: The network.
        inputs: Encoder inputs by modality, of those rows that have it and are this rank's (`Ranks.share`): all of the
            first view, then the next.
        present: bool [views x rows] by modality, of the whole batch.
        views: How many views there are of each row.
        ranks: Who takes part.
    """
    if ranks.count == 1:
        return network.encode(inputs, present)
    memory = {
        id(encoder): encode_one(encoder, inputs.get(name), present[name], views, ranks)
        for name, encoder in network.members
    }
    return network.encode(inputs, present, memory)


def encode_one(encoder: Encoder, inputs: Any, has: Tensor, views: int, ranks: Ranks) -> Tensor:
    """Return the features of one encoder, [views x rows, dim], zero where absent; arguments as for `encode`."""
    rows = int(has.sum()) // views
    if ranks.count == 1 or not rows:
        return encoded([encoder], inputs, has)
    part = _Part.of(encoder, inputs, rows, views, ranks, has.device)
    moving = [p for p in encoder.parameters() if p.requires_grad] if torch.is_grad_enabled() else []
    if not moving:
        z: Tensor = part.joined(part.run())
    elif ranks.sharded:
        # FSDP sums gradients itself, in hooks that only a backward pass to the weights calls.
        z = _Joined.apply(part.run(), part)  # type: ignore[no-untyped-call]
    else:
        z = Divided.apply(part, moving, *moving)  # type: ignore[no-untyped-call]
    if bool(has.all()):
        return z
    result = torch.zeros(len(has), encoder.dim, device=has.device, dtype=z.dtype)
    result[has] = z
    return result


@dataclass(frozen=True)
class _Part:
    """The rows of one encoder that this rank runs.

    Attributes:
        encoder: The encoder.
        inputs: Its inputs, of this rank's rows.
        places: Where the rows of each rank lie in the whole, int64; None: too few to be divided, every rank runs all.
        whole: How many rows there are in all, times views.
        ranks: Who takes part.
    """

    encoder: Encoder
    inputs: Any
    places: list[Tensor] | None
    whole: int
    ranks: Ranks

    @classmethod
    def of(cls, encoder: Encoder, inputs: Any, rows: int, views: int, ranks: Ranks, device: torch.device) -> _Part:
        sizes = ranks.sizes(rows)
        places = None
        if sizes is not None:
            # All of the first view, then the next, within each rank's part as in the whole.
            order = torch.arange(views * rows, device=device).view(views, rows)
            places = [part.flatten() for part in torch.split(order, sizes, 1)]
        return cls(encoder, inputs, places, views * rows, ranks)

    def run(self) -> Tensor:
        """Run the encoder on this rank's rows."""
        count = self.whole if self.places is None else len(self.places[self.ranks.rank])
        everywhere = torch.ones(count, dtype=torch.bool, device=next(self.encoder.parameters(), _NONE).device)
        if self.places is None or not self.encoder.training:
            return encoded([self.encoder], self.inputs, everywhere)
        mode = _WholeBatch(self)
        with mode, mode.draws():
            return encoded([self.encoder], mode.inputs, everywhere)

    def joined(self, own: Tensor) -> Tensor:
        """Put the features of all ranks together, in the order of the rows."""
        if self.places is None:
            return own
        parts = self.ranks.joined(own, [len(places) for places in self.places])
        whole = torch.empty_like(parts)
        whole[torch.cat(self.places)] = parts
        return whole

    def own(self, whole: Tensor) -> Tensor:
        """Return what belongs to this rank's rows."""
        return whole if self.places is None else whole[self.places[self.ranks.rank]]


_NONE = torch.empty(0)


class Divided(torch.autograd.Function):
    """An encoder's features of all rows as a function of its weights.

    Backwards, as often as it is asked, each rank sends its own rows' gradient through the encoder, and the gradients of
    the weights are those of all rows. Every rank must ask alike, which they do where all compute the same.
    """

    @staticmethod
    def forward(ctx: Any, part: _Part, moving: Sequence[Tensor], *weights: Tensor) -> Tensor:
        """Encode this rank's rows, and put all ranks' together."""
        with torch.enable_grad():
            ctx.own = part.run()
        ctx.part, ctx.moving = part, moving
        return part.joined(ctx.own.detach())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        """Return the gradients of all rows."""
        part: _Part = ctx.part
        if not ctx.own.requires_grad:
            return None, None, *(None for _ in ctx.moving)
        found = torch.autograd.grad(
            ctx.own, ctx.moving, part.own(gradient).to(ctx.own.dtype), retain_graph=True, allow_unused=True
        )
        if part.places is None:
            return None, None, *found
        # Which weights were used is the same on every rank.
        used = [own for own in found if own is not None]
        summed = iter(_summed(used, part.ranks))
        return None, None, *(None if own is None else next(summed) for own in found)


def _summed(tensors: Sequence[Tensor], ranks: Ranks) -> list[Tensor]:
    """Return the sums over all ranks, of all tensors of a type at once."""
    result = list(tensors)
    for kind in dict.fromkeys(tensor.dtype for tensor in tensors):
        places = [at for at, tensor in enumerate(tensors) if tensor.dtype == kind]
        flat = ranks.sum(torch.cat([tensors[at].reshape(-1) for at in places]))
        parts = torch.split(flat, [tensors[at].numel() for at in places])
        for at, own in zip(places, parts, strict=True):
            result[at] = own.view(tensors[at].shape)
    return result


class _Joined(torch.autograd.Function):
    """Features of all rows as a function of this rank's."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, part: _Part) -> Tensor:
        ctx.part = part
        return part.joined(own)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        part: _Part = ctx.part
        # Where every rank ran all rows, the sum over ranks would count them as often.
        return (gradient / part.ranks.count if part.places is None else part.own(gradient)), None


class _WholeBatch(TorchFunctionMode):
    """Batch norm, dropout and attention within an encoder, as one process with all rows would compute them."""

    def __init__(self, part: _Part) -> None:
        super().__init__()
        assert part.places is not None
        self.part, self.rows, self.inputs = part, part.places[part.ranks.rank], part.inputs
        self.generator: torch.Generator | None = None
        # A GPU draws in an order of its own, and the elements of rows that have several are no rows.
        if isinstance(part.inputs, Tensor | dict) and self.rows.device.type == "cpu":
            self.generator = torch.Generator()
            if isinstance(part.inputs, dict) and "mask" in part.inputs:
                self.inputs = self._as_long_as_all(part.inputs)

    def _as_long_as_all(self, tokens: dict[str, Tensor]) -> dict[str, Tensor]:
        """Pad texts to the length that those of all ranks have, on which the number of draws hangs."""
        own = tokens["mask"].shape[1]
        more = max(self.part.ranks.merged([own])) - own
        return {name: F.pad(one, (0, more)) if one.ndim == 2 else one for name, one in tokens.items()}

    def draws(self) -> ExitStack:
        """Return a context in which other numbers come from this rank's own stream."""
        stack = ExitStack()
        if self.generator is not None:
            self.generator.set_state(torch.get_rng_state())
            stack.callback(self._advance)
        stack.enter_context(self.part.ranks.own_draws())
        return stack

    def _advance(self) -> None:
        """Let all ranks go on where dropout of the whole batch ended."""
        if self.generator is not None:
            torch.set_rng_state(self.generator.get_state())

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace what depends on the whole batch."""
        own: dict[Callable[..., Any], Callable[..., Any]] = {
            F.batch_norm: self._norm,
            F.dropout: self._dropout,
            F.scaled_dot_product_attention: self._attention,
        }
        return own.get(func, func)(*args, **(kwargs or {}))

    def _norm(
        self,
        x: Tensor,
        mean: Tensor | None,
        var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return F.batch_norm(x, mean, var, weight, bias, training, momentum, eps)
        normed, here, spread, count = _WholeNorm.apply(x, eps, self.part.ranks)  # type: ignore[no-untyped-call]
        if mean is not None and var is not None:
            with torch.no_grad():
                mean.lerp_(here.to(mean.dtype), momentum)
                var.lerp_((spread * (count / (count - 1))).to(var.dtype), momentum)
        shape = (1, -1, *[1] * (x.ndim - 2))
        result = normed if weight is None else normed * weight.view(shape)
        return (result if bias is None else result + bias.view(shape)).to(x.dtype)  # type: ignore[no-any-return]

    def _dropout(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if self.generator is None or not training or not 0 < p < 1 or len(x) != len(self.rows):
            return F.dropout(x, p, training, inplace)
        return x * self._kept(x, p)

    def _kept(self, x: Tensor, p: float) -> Tensor:
        """Return 1 / (1 - p) for what is kept and 0 for what is dropped, as PyTorch draws it for all rows at once."""
        whole = torch.empty(self.part.whole, *x.shape[1:], dtype=x.dtype)
        return whole.bernoulli_(1 - p, generator=self.generator)[self.rows].div_(1 - p)

    def _attention(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, **more: Any,
    ) -> Tensor:  # fmt: skip
        if self.generator is None or not dropout_p or len(query) != len(self.rows) or is_causal or any(more.values()):
            return F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, **more)
        scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        weights = torch.softmax(scores, -1).nan_to_num(0.0)  # nan: of a token that may look at none
        return (weights * self._kept(weights, dropout_p)) @ value


class _WholeNorm(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) over the rows of all ranks, the mean, the biased variance, and the count."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, ranks: Ranks) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = x if x.dtype == torch.float64 else x.float()
        over = [0, *range(2, x.ndim)]
        shape = (1, -1, *[1] * (x.ndim - 2))
        here = wide.new_full((1,), x.numel() // x.shape[1])
        total = ranks.sum(torch.cat([wide.sum(over), here]))
        count, mean = total[-1], total[:-1] / total[-1]
        centred = wide - mean.view(shape)
        variance = ranks.sum(centred.square().sum(over)) / count
        scale = torch.rsqrt(variance + eps)
        normed = centred * scale.view(shape)
        ctx.save_for_backward(normed, scale, count)
        ctx.over, ctx.shape, ctx.ranks = over, shape, ranks
        ctx.mark_non_differentiable(mean, variance, count)
        return normed, mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Any, ...]:
        normed, scale, count = ctx.saved_tensors
        sums = ctx.ranks.sum(torch.cat([gradient.sum(ctx.over), (gradient * normed).sum(ctx.over)]))
        plain, along = (part.view(ctx.shape) / count for part in sums.chunk(2))
        return scale.view(ctx.shape) * (gradient - plain - normed * along), None, None
