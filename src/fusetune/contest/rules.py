"""What a contest is asked to do: which strategies, how often, at which level, and what is equal for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast, get_args

from fusetune.config import Config, unknown_strategies
from fusetune.config.items import as_items
from fusetune.config.tree import KINDS, StrategyConfig
from fusetune.data.choices import TargetKind
from fusetune.errors import ConfigError, UserError, did_you_mean, listed
from fusetune.strategies import IMPORT, STRATEGIES, Strategy, refuse_target, strategy_of, targets_of

Level = Literal["features", "encoders"]
Budget = Literal["passes", "seconds"]
ALL = "all"
# What says something of one input alone; everything else combines several.
SINGLE = ("two-stage", "linear-probe", "frozen-fusion", "alone", "joint", "majority")


@dataclass(frozen=True)
class Rules:
    """The protocol of a contest.

    Attributes:
        strategies: Their names, in the order in which they are fitted.
        selected: Were they chosen by name, and not all that there are?
        seeds: Seeds of initialisation and batches; the split is that of the first.
        level: Do strategies train small networks on stored features, or the encoders?
        trials: Tuning trials of each strategy, on the validation rows, with the first seed.
        budget: What is equal for all: rows through encoders in training, or seconds.
        minutes: How long one fit of one strategy may train.
        epochs: Epochs of joint training, of which the budget of passes is made; None: those of the settings.
    """

    strategies: tuple[str, ...]
    selected: bool
    seeds: tuple[int, ...]
    level: Level = "features"
    trials: int = 0
    budget: Budget = "passes"
    minutes: float | None = None
    epochs: int | None = None

    @property
    def words(self) -> str:
        """What was equal for all, in words."""
        limit = "" if self.minutes is None else f"at most {self.minutes:g} minute(s) of training a fit"
        if self.budget == "seconds":
            return limit
        passes = "as many rows through encoders in training as joint training sends through, to whole epochs"
        return f"{passes}; {limit}" if limit else passes

    def facts(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self) | {"strategies": list(self.strategies), "seeds": list(self.seeds)}


def rules_of(
    strategies: str | Iterable[str],
    seeds: int,
    first: int,
    level: str,
    trials: int,
    budget: str,
    minutes: float | None,
    epochs: int | None,
) -> Rules:
    """Return the protocol that is asked for.

    Raises:
        ConfigError: If there is no such strategy, level or budget, or a number is out of range; all that is wrong.
    """
    wrong = []
    for option, value, known in (("level", level, get_args(Level)), ("budget", budget, get_args(Budget))):
        if value not in known:
            wrong.append(f"{option}: '{value}' is none{did_you_mean(str(value), known)}; use {' or '.join(known)}")
    wrong += [
        f"{option}: must be {least} or more, got {value}"
        for option, value, least in (("seeds", seeds, 1), ("trials", trials, 0), ("epochs", epochs, 1))
        if value is not None and value < least
    ]
    if minutes is not None and not 0 < minutes < float("inf"):
        wrong.append(f"minutes: must be above 0, got {minutes}")
    if budget == "seconds" and minutes is None:
        wrong.append("budget seconds needs minutes: how long one fit of one strategy may train")
    names = as_items(strategies)
    chosen = list(STRATEGIES) if names == [ALL] else list(dict.fromkeys(names))
    own = [name for name in chosen if name.startswith(IMPORT)]
    for name in own:
        try:
            named(name)
        except ConfigError as error:
            wrong.append(str(error))
    if unknown := unknown_strategies(chosen, f", or {ALL}"):
        wrong.append(f"strategies: {unknown}")
    if not chosen:
        wrong.append(f"strategies: none is named; known: {listed(STRATEGIES, 99)}, or all")
    if wrong:
        raise ConfigError("\n".join(wrong))
    return Rules(
        tuple(chosen),
        names != [ALL],
        tuple(range(first, first + seeds)),
        cast(Level, level),
        trials,
        cast(Budget, budget),
        minutes,
        epochs,
    )


def named(name: str) -> type[Strategy]:
    """Return the strategy of a name, which may be the address of one of the user's own."""
    return strategy_of(Config(strategy=StrategyConfig(name=name)))[0]


def for_target(rules: Rules, kind: TargetKind) -> tuple[Rules, str | None]:
    """Return the rules with the strategies that are defined for what is predicted, and what to say of the others.

    Raises:
        ConfigError: If one that is not was asked for by name.
    """
    out = [name for name in rules.strategies if kind not in targets_of(named(name))]
    if rules.selected:
        for name in out:
            refuse_target(named(name), kind)
    left = tuple(name for name in rules.strategies if name not in out)
    said = f"left out, since they are defined by the classes of a softmax and the label is {kind}: {listed(out, 99)}"
    return replace(rules, strategies=left), said if out else None


def for_inputs(rules: Rules, inputs: Iterable[str]) -> tuple[tuple[str, ...], str | None]:
    """Return the strategies that a table's inputs leave something to do, and what there is to say about the others.

    Raises:
        UserError: If there is one input, and nothing that was asked for makes sense of it.
    """
    there = list(inputs)
    if len(there) > 1:
        return rules.strategies, None
    able = [name for name in STRATEGIES if name in SINGLE]
    left = tuple(name for name in rules.strategies if name in able or name.startswith(IMPORT))
    out = [name for name in rules.strategies if name not in left]
    said = f"the table has one input, '{there[0]}', so there is nothing to combine"
    can = f"what can still be compared is {listed(able, 20)}"
    if not left:
        raise UserError(f"{said}; {can}. Name some of these with --strategies, or give the table more inputs")
    return left, f"{said}; {can}" + (f". Left out: {listed(out, 99)}" if out else "")


def configured(
    base: Config, rules: Rules, name: str, seed: int, epochs: int | None, chosen: Mapping[str, Any] | None = None
) -> Config:
    """Return the settings of one fit.

    Args:
        base: The settings of the contest.
        rules: Its protocol.
        name: The strategy.
        seed: The seed.
        epochs: Epochs of every loop, all of which are run; None: as the settings say.
        chosen: What tuning chose, see `tuning`.
    """
    chosen, update = chosen or {}, {}
    loop = {} if epochs is None else {"epochs": epochs, "patience": 0}
    for kind in KINDS:
        section = getattr(base, kind)
        train = section.train.model_copy(update=loop)
        if "rate" in chosen:
            train = train.model_copy(
                update={"lr": train.lr * chosen["rate"], "head_lr": train.head_lr * chosen["rate"]}
            )
        if "dropout" in chosen:
            train = train.model_copy(update={"dropout": chosen["dropout"]})
        update[kind] = section.model_copy(update={"train": train})
    own = {key.removeprefix("strategy."): value for key, value in chosen.items() if key.startswith("strategy.")}
    fields = named(name).Settings.model_fields
    own |= {key: value for key, value in loop.items() if key in fields}
    strategy = StrategyConfig(name=name, level=rules.level, **own)
    config = base.model_copy(update=update | {"seed": seed, "strategy": strategy})
    strategy_of(config)  # a wrong setting is said before anything is trained
    return config
