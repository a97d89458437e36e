"""Ways to fit a network, one file each, all judged, saved and served alike; chosen by `strategy: {name: ...}`."""

from __future__ import annotations

import importlib
from typing import Any

from pydantic import ValidationError

from fusetune.config import IMPORT, OR_OWN, Config, unknown_strategies
from fusetune.data.choices import TargetKind
from fusetune.errors import ConfigError, did_you_mean, listed, shown
from fusetune.strategies.agm import AGM
from fusetune.strategies.alone import Alone
from fusetune.strategies.arl import ARL
from fusetune.strategies.base import WHOLE, Fitted, Strategy
from fusetune.strategies.cache_head import CachedHead
from fusetune.strategies.cached_distillation import CachedDistillation
from fusetune.strategies.classifier import Classifier
from fusetune.strategies.club import CLUB
from fusetune.strategies.cpsc import CPSC
from fusetune.strategies.dgl import DGL
from fusetune.strategies.diagnose_relearn import DiagnoseRelearn
from fusetune.strategies.frozen_fusion import FrozenFusion, TunedFusion
from fusetune.strategies.g_blending import GBlending
from fusetune.strategies.iemf import IEMF
from fusetune.strategies.inforeg import InfoReg
from fusetune.strategies.interference import Interference
from fusetune.strategies.ithp import ITHP
from fusetune.strategies.joint import Joint
from fusetune.strategies.level import loop_at, refuse_views
from fusetune.strategies.linear_probe import LinearProbe
from fusetune.strategies.m3col import M3CoL
from fusetune.strategies.majority import Majority
from fusetune.strategies.mcr import MCR
from fusetune.strategies.mdico import MDiCo
from fusetune.strategies.mind import MIND
from fusetune.strategies.mla import MLA
from fusetune.strategies.mlb import MLB
from fusetune.strategies.mmlora import MMLoRA
from fusetune.strategies.mmpareto import MMPareto
from fusetune.strategies.modality_dropout import ModalityDropout
from fusetune.strategies.multi_loss import MultiLoss
from fusetune.strategies.ogm_ge import OGMGE
from fusetune.strategies.opm import OPM
from fusetune.strategies.pmr import PMR
from fusetune.strategies.qmf import QMF
from fusetune.strategies.reconboost import ReconBoost
from fusetune.strategies.rivals import ALONE, RESERVED
from fusetune.strategies.soft_attributes import SoftAttributes
from fusetune.strategies.structure import Structure
from fusetune.strategies.tar import TAR
from fusetune.strategies.tip import TIP
from fusetune.strategies.trees import Trees
from fusetune.strategies.tri_modal import TriModal
from fusetune.strategies.two_stage import TwoStage
from fusetune.strategies.ume import UME
from fusetune.strategies.ume_mma import UMEMMA
from fusetune.strategies.umt import UMT
from fusetune.strategies.weighted import Weighted

STRATEGIES: dict[str, type[Strategy]] = {
    strategy.name: strategy
    for strategy in (
        Weighted,
        TwoStage,
        UME,
        UMT,
        Joint,
        MultiLoss,
        OGMGE,
        MMPareto,
        MCR,
        PMR,
        QMF,
        GBlending,
        CLUB,
        DiagnoseRelearn,
        Interference,
        SoftAttributes,
        LinearProbe,
        Trees,
        Classifier,
        Alone,
        Majority,
        MLB,
        AGM,
        IEMF,
        OPM,
        InfoReg,
        CPSC,
        ARL,
        DGL,
        M3CoL,
        TriModal,
        Structure,
        MDiCo,
        ITHP,
        MIND,
        CachedDistillation,
        TIP,
        TAR,
        FrozenFusion,
        TunedFusion,
        MLA,
        ReconBoost,
        ModalityDropout,
        UMEMMA,
        MMLoRA,
        CachedHead,
    )
}


def unread(config: Config) -> list[str]:
    """Return the settings that ask for something which the chosen strategy does not follow."""
    strategy, own = strategy_of(config)
    asked, plain = config.leaves(), Config().leaves()
    ignored = strategy.ignored(own) if hasattr(strategy, "ignored") else getattr(strategy, "unread", ())
    return [name for name in ignored if asked[name] != plain[name]]


def refuse_unread(config: Config) -> None:
    """Refuse settings that the chosen strategy, or its level, does not follow, rather than pass over them.

    Raises:
        ConfigError: Naming them.
    """
    refuse_views(config)
    if names := unread(config):
        raise ConfigError(
            f"{listed(names)}: the strategy '{strategy_of(config)[0].name}' does not read this; leave it out, or use "
            "two-stage"
        )


def targets_of(strategy: type[Strategy]) -> tuple[TargetKind, ...]:
    """Return the kinds of target that a strategy is defined for, which each says itself, whatever it is built on."""
    own: tuple[TargetKind, ...] = vars(strategy).get("targets", Strategy.targets)
    return own


def refuse_target(strategy: type[Strategy], kind: TargetKind) -> None:
    """Refuse a strategy that is not defined for what is predicted, before anything is trained.

    Raises:
        ConfigError: Naming those that are.
    """
    if kind not in targets_of(strategy):
        able = [name for name, other in STRATEGIES.items() if kind in targets_of(other)]
        raise ConfigError(
            f"the strategy '{strategy.name}' is defined for classes, and this is {kind}; take one of "
            f"{listed(able, len(able))}, or make classes of the labels"
        )


def refuse_weights(strategy: type[Strategy], settings: Any) -> None:
    """Refuse a strategy that cannot follow a column of weights, before anything is trained.

    Raises:
        ConfigError: Saying what of it takes rows to count alike.
    """
    why = strategy.unweighed(settings) if hasattr(strategy, "unweighed") else None
    if why is not None:
        raise ConfigError(f"the strategy '{strategy.name}' cannot follow a weight column: {why}")


def strategy_of(run: Config) -> tuple[type[Strategy], Any]:
    """Return the strategy that a configuration names and its checked settings.

    Raises:
        ConfigError: If there is no such strategy, or it has no such setting.
    """
    config = run.strategy
    if wrong := unknown_strategies([config.name], OR_OWN):
        raise ConfigError(f"strategy.name: {wrong}")
    strategy = _imported(config.name) if config.name.startswith(IMPORT) else STRATEGIES[config.name]
    try:
        loop = {key: value for key, value in loop_at(run).items() if key in strategy.Settings.model_fields}
        return strategy, strategy.Settings(**(loop | (config.model_extra or {})))
    except ValidationError as error:
        problems = [_explained(item, strategy) for item in error.errors()]
        raise ConfigError("\n".join(problems)) from error


def _imported(address: str) -> type[Strategy]:
    """Return the class that `import:package.module:Class` names."""
    module, _, name = address.removeprefix(IMPORT).partition(":")
    if not module or not name:
        raise ConfigError(f"strategy.name: write '{address}' as {IMPORT}package.module:Class")
    try:
        strategy: type[Strategy] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise ConfigError(f"strategy.name: '{address}' cannot be imported: {error}") from error
    if getattr(strategy, "name", "") in RESERVED or str(getattr(strategy, "name", "")).endswith(ALONE):
        raise ConfigError(
            f"strategy.name: '{address}' calls itself '{strategy.name}', as a rival in the gain table is called"
        )
    lacking = [part for part in ("name", "title", "paper", "Settings", "fit") if not hasattr(strategy, part)]
    if lacking:
        raise ConfigError(f"strategy.name: '{address}' is no strategy, since it has no {listed(lacking)}")
    return strategy


def _explained(item: Any, strategy: type[Strategy]) -> str:
    where = ".".join(["strategy", *map(str, item["loc"])])
    if item["type"] == "extra_forbidden":
        fields = list(strategy.Settings.model_fields)
        return (
            f"{where}: the strategy '{strategy.name}' has no such setting{did_you_mean(str(item['loc'][-1]), fields)}; "
            + (f"it has {listed(fields, 40)}" if fields else "it has none")
        )
    return f"{where}: {item['msg'].removeprefix('Value error, ')} (got {shown(item['input'])})"


__all__ = [
    "IMPORT",
    "STRATEGIES",
    "WHOLE",
    "Fitted",
    "Strategy",
    "refuse_target",
    "refuse_unread",
    "refuse_weights",
    "strategy_of",
    "targets_of",
    "unread",
]
