"""MMLoRA: encoders tuned alone, then low-rank adapters that let them adapt to each other (Du et al., arXiv 2310.05193).

    phi_m, W_m = argmin CE(W_m phi_m(x_m) + b_m, y) for each modality (stage U)
    every linear layer W of phi_m:  W + 2 B_m A_m,  B_m = 0 at the start, rank r;  W stays
    min CE(f, y) over all A_m, B_m and the fusion h,  f = h(phi_1(x_1), ..., phi_M(x_M))

The first step starts from frozen fusion, exactly; afterwards the adapters are folded into their layers. Only abstract
and reviews could be read: rank and rates are this library's, and that the whole h is trained is from the abstract.
Encoders without a layer that could be adapted, such as vectors handed on as they are, stay as they are.
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field

from fusetune.config import EncoderConfig
from fusetune.data.split import Rows
from fusetune.encoders import Encoder
from fusetune.encoders.lora import has_adaptable
from fusetune.strategies.frozen_fusion import TunedFusion, TunedFusionSettings
from fusetune.strategies.trainer import Training


class MMLoRASettings(TunedFusionSettings):
    """The loop of joint training, what is put on the encoders, and the adapters within them."""

    rank: int = Field(8, ge=1, description="rank of the adapters")
    adapter_lr: float = Field(1e-3, gt=0, description="learning rate of the adapters")


class MMLoRA(TunedFusion):
    """Joint training of adapters and head on encoders that were tuned alone."""

    name, title, paper = "mmlora", "MMLoRA", "Adapters on unimodal encoders, arXiv 2310.05193"
    cost = "the training of every encoder alone, then one of all that moves only adapters and the head"
    Settings = MMLoRASettings

    def training_on(self, rows: Rows, held: Rows) -> Training:
        """Return the same training, of adapters instead of whole encoders."""
        what = super().training_on(rows, held)
        own = dict(self.network.members)
        return replace(
            what, encoders={name: self._adapted(settings, own[name]) for name, settings in what.encoders.items()}
        )

    def _adapted(self, settings: EncoderConfig, encoder: Encoder) -> EncoderConfig:
        """Return how an encoder is adapted, or that nothing in it moves."""
        able = has_adaptable(encoder)
        rates = {"lr": self.settings.adapter_lr, "layer_decay": 1.0, "batch_norm": "frozen"}
        return settings.model_copy(
            update={**rates, "lora_rank": self.settings.rank if able else 0, "freeze": 0.0 if able else 1.0}
        )
