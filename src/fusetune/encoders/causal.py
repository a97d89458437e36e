"""Causal language models as text encoders: GPT-2 and its kin, read out at the last token or as all positions flattened.

Each position of a causal model has seen only what stands before it, so the last token is the one that knows the whole
text; the flattened form is that of arXiv 2505.06592 (64 positions x 768 values of GPT-2 in front of one linear layer).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from fusetune.encoders.base import Encoder, takes_argument
from fusetune.encoders.layers import full
from fusetune.encoders.pooling import attended, left_padded
from fusetune.encoders.pretrained import build_backbone

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class CausalText(Encoder):
    """A causal language model of `transformers`. Texts are padded on the left, whatever side they come padded on.

    Args:
        config: JSON of the network's configuration.
        pooling: ``last``: the last token, with positions counted from the text's first token, so that padding does not
            matter. ``flat``: every position of a fixed width, padding included, as published: its positions are
            hidden from the text's tokens, but their values are part of the vector.
        max_tokens: The fixed width of ``flat``; texts are never longer.
        backbone: The loaded network; built from `config` with random weights where absent.
    """

    def __init__(
        self,
        config: dict[str, Any],
        pooling: Literal["last", "flat"],
        max_tokens: int,
        backbone: PreTrainedModel | None = None,
    ) -> None:
        super().__init__()
        if pooling not in ("last", "flat"):
            raise ValueError(f"a causal language model is read out by 'last' or 'flat', not by {pooling!r:.40}")
        self.pooling, self.max_tokens = pooling, max_tokens
        self.network = build_backbone(config) if backbone is None else backbone
        width = int(self.network.config.hidden_size)
        self.dim = width * max_tokens if pooling == "flat" else width
        self._pad = int(getattr(self.network.config, "eos_token_id", None) or 0)
        self._counts = takes_argument(self.network, "position_ids")

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Encode ``{"ids": long [batch, tokens], "mask": bool [batch, tokens]}`` to ``[batch, dim]``."""
        flat = self.pooling == "flat"
        visible = attended(inputs["mask"])
        ids, mask = left_padded(inputs["ids"], visible, self.max_tokens if flat else 0, self._pad)
        options = {} if flat or not self._counts else {"position_ids": (mask.long().cumsum(1) - 1).clamp(min=0)}
        hidden: Tensor = full(self.network(input_ids=ids, attention_mask=mask.long(), **options).last_hidden_state)
        return hidden.flatten(1) if flat else hidden[:, -1]
