"""Faults that would make scores dishonest: where each one is planted, and which tests have to notice.

`benchmarks/mutants.py` plants them one by one. The test suite only looks whether every place and every test is there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        file: Where it is planted, from the root of the repository.
        what: What goes wrong, in words.
        old: What stands there, exactly once.
        new: What takes its place.
        tests: Test files or tests that cover it, one of which must fail.
    """

    file: str
    what: str
    old: str
    new: str
    tests: tuple[str, ...]


def _in(file: str, *tests: str) -> Callable[[str, str, str], Mutant]:
    """Return a short way to write the mutants of a file that the same tests cover: what, old, new."""
    return lambda what, old, new: Mutant(f"src/fusetune/{file}", what, old, new, tests)


_split = _in("data/split.py", "tests/data/test_data_split.py")
_FOLDS = "tests/heads/test_heads_folds.py"
_folds = _in("heads/folds.py", _FOLDS)
_solver = _in("heads/solver.py", "tests/heads/test_heads.py")
_newton = _in("heads/newton.py", "tests/heads/test_heads_newton.py")
_path = _in("heads/path.py", "tests/heads/test_heads_path.py")
_context = _in("context.py", "tests/test_context.py")
_prepare = _in("prepare.py", "tests/test_context.py")
_CROSSFIT = "tests/strategies/test_strategies_crossfit.py"
_UNIMODAL = "tests/strategies/test_strategies_unimodal.py"
_crossfit = _in("strategies/crossfit.py", _CROSSFIT)
# What rows count, where they do not count alike.
_WEIGHTS, _WEIGHED = "tests/test_weights.py", "tests/evaluate/test_evaluate_weights.py"
_one_fold = _in("strategies/one_fold.py", "tests/test_trials.py::test_one_fold_is_judged_by_what_did_not_learn_from_it")
_undone = _in(
    "strategies/crossfit.py",
    "tests/strategies/test_strategies_unimodal.py::test_fine_tuning_that_does_not_help_on_all_folds_together_is_undone",
)
_randomised = _in("heads/randomised.py", "tests/heads/test_heads_randomised.py")
_unimodal = _in(
    "strategies/unimodal.py",
    _CROSSFIT,
    f"{_UNIMODAL}::test_rows_of_other_parts_are_refused",
    f"{_UNIMODAL}::test_the_best_epoch_is_what_its_record_says",
)
_ensemble = _in("strategies/ensemble.py", "tests/strategies/test_strategies_ensemble.py")
_end_to_end = _in("strategies/end_to_end.py", "tests/strategies/test_strategies_end_to_end.py")
_RIVALS = "tests/strategies/test_strategies_rivals.py"
_judge = _in("judge.py", "tests/test_judge.py")
_calibration = _in("evaluate/calibration.py", "tests/evaluate/test_evaluate_calibration.py")
_temperature = _in(
    "evaluate/temperature.py",
    "tests/evaluate/test_evaluate_temperature.py",
    "tests/evaluate/test_evaluate_calibration.py",
)
_LABELS = "tests/evaluate/test_evaluate_labels.py"
_labels = _in("evaluate/temperature.py", _LABELS)
_reach = _in("evaluate/reach.py", "tests/evaluate/test_evaluate_reach.py")
_said = _in("evaluate/measures/labels.py", _LABELS)
_intervals = _in("evaluate/intervals.py", "tests/evaluate/test_evaluate_intervals.py")
_bootstrap = _in("evaluate/bootstrap.py", "tests/evaluate/test_evaluate_intervals.py")
_standings = _in("standings.py", "tests/test_standings.py")
_family = _in("guidance/family.py", "tests/test_guide.py")
_trained_numbers = _in("evaluate/measures/numbers.py", "tests/test_standings.py")
_paired = _in("evaluate/paired.py", "tests/evaluate/test_evaluate_paired.py")
_mcnemar = _in("evaluate/paired.py", "tests/evaluate/test_evaluate_intervals.py")
_conformal = _in("evaluate/conformal.py", "tests/evaluate/test_evaluate_conformal.py")
_threshold = _in("evaluate/threshold.py", "tests/evaluate/test_evaluate_threshold.py")
_MODALITIES = "tests/evaluate/test_evaluate_modalities.py"
_modalities = _in(
    "evaluate/modalities.py",
    f"{_MODALITIES}::test_a_network_is_asked_once_for_each_pattern",
    f"{_MODALITIES}::test_shapley_equals_the_mean_over_all_orders",
    f"{_MODALITIES}::test_masks_are_nested_and_belong_to_the_row",
    f"{_MODALITIES}::test_missing_rates_ask_every_method_with_the_same_masks",
    f"{_MODALITIES}::test_donors_are_others_of_the_stated_class_that_have_the_input",
)
_metrics = _in("evaluate/metrics.py", "tests/evaluate/test_evaluate_metrics.py")
_selective = _in("evaluate/selective.py", "tests/evaluate/test_evaluate_selective.py")
_store = _in("features/store.py", "tests/features/test_features_store.py")
_dataset = _in("data/dataset.py", "tests/data/test_data_dataset.py")
_problems = _in("data/problems.py", "tests/data/test_data_problems.py")
_handing = _in("handing.py", "tests/test_predict.py::test_a_piece_knows_where_its_rows_stand_in_the_whole")
_plan = _in("plan.py", "tests/test_plan.py")

_LEARNING = """\
    scaled = {name: scaled_on_valid(ctx, fitted[name]) for name in names}
    calibration = _learnt(ctx, fitted[chosen], scaled[chosen])
"""
_OPENING = "    opened = ctx.split.unlock_test()\n"

MUTANTS: tuple[Mutant, ...] = (
    _randomised(
        "a forest learns from the rows that it is judged on",
        "np.flatnonzero(folds != fold), seed",
        "np.arange(len(folds)), seed",
    ),
    _modalities(
        "what was said with everything is taken for what is said with less",
        'np.packbits(np.concatenate(has)).tobytes() if has else b""',
        'b""',
    ),
    # Which row is in which part.
    _split("groups are cut apart", 'pd.factorize(units.astype("str"))', 'pd.factorize(ids.astype("str"))'),
    _split(
        "the shares of valid and test are swapped",
        "fractions if fractions[2] else fractions[:2], seed)",
        "(fractions[0], fractions[2], fractions[1]) if fractions[2] else fractions[:2], seed)",
    ),
    _split(
        "classes are dealt without regard to their shares",
        "_members(codes, labels, len",
        "_members(codes, labels * 0, len",
    ),
    _split(
        "the test part opens twice",
        "if self.unlocked_at is not None:\n            raise LockedTestError(f",
        "if False:\n            raise LockedTestError(f",
    ),
    _split("the test part is never locked", 'if part == "test" and self', 'if part == "tests" and self'),
    _split(
        "a stage may see rows of any part",
        "        if len(outside):\n            others",
        "        if False:\n            others",
    ),
    _split(
        "a given split may divide groups",
        "        _refuse_shared_groups(split, groups)\n",
        "        pass\n",
    ),
    _split(
        "validation rows are taken from the test part too",
        "rows = np.flatnonzero(part == 0)\n",
        "rows = np.flatnonzero(part != 1)\n",
    ),
    _split(
        "the newest rows are trained on",
        'ordered.rank(method="min", pct=True)',
        'ordered.rank(method="min", pct=True, ascending=False)',
    ),
    _split("later rows of a group are in an earlier part", '.transform("max")', '.transform("min")'),
    _split("the split's hash does not know the parts", '{row}\\x1f{PARTS[code]}"', '{row}\\x1f"'),
    _split("a changed split file is taken", 'or frame.attrs.get("hash") != split.hash', ""),
    _split(
        "validation rows divide groups of the training part",
        "labels[rows], units.iloc[rows], (1 - share",
        "labels[rows], ids.iloc[rows], (1 - share",
    ),
    # Who learns from whom.
    _folds("a fold divides groups", "strata, ctx.units.iloc[rows]", "strata, ctx.ids.iloc[rows]"),
    _folds("encoders and heads share their folds", "* _HEAD_FOLDS, 2)", "* _HEAD_FOLDS, 1)"),
    _folds("folds repeat the split's own order", "ctx.config.seed + salt)", "ctx.config.seed)"),
    _folds(
        "encoders learn from the rows kept for the head", "Folds(train[kept], train[~kept]", "Folds(train[kept], train"
    ),
    _folds(
        "heads learn from the rows that they stop by",
        "data = data.some(np.setdiff1d(np.arange(len(folds.rows)), folds.valid_places))",
        "pass",
    ),
    _folds(
        "rows are spoken of by the head that learnt from them",
        "return fit, torch.from_numpy(fit.held).float()",
        "return fit, logits_of(fit.head, choices)",
    ),
    _folds(
        "without cross-fitting the head learns from validation rows",
        "return Folds(train, train, valid,",
        "return Folds(np.sort(np.concatenate([train, valid])), train, valid,",
    ),
    Mutant(
        "src/fusetune/heads/folds.py",
        "a fold's networks may never have seen a class",
        "    return not lost\n",
        "    return True\n",
        ("tests/strategies/test_strategies_two_stage.py",),
    ),
    _folds(
        "validation rows are those of the test part",
        'ctx.split.rows("train"), ctx.split.rows("valid")',
        'ctx.split.rows("train"), np.flatnonzero(ctx.split.part == 2)',
    ),
    Mutant(
        "src/fusetune/heads/base.py",
        "heads take every row for one group and class",
        "weights, target = ctx.row_weights(rows)",
        "weights, target = np.ones(len(rows))",
        (_FOLDS,),
    ),
    _solver(
        "held-out logits are those of the final solution",
        "held=self.logits(start))",
        "held=self.problem.valid_logits(solution))",
    ),
    _solver(
        "the cross-validated NLL is that of the final solution",
        "self.nll(start), held",
        "self.nll([solution] * len(start)), held",
    ),
    _solver(
        "a fold's solution sees its own fold",
        "start, without=self.held)",
        "start, without=[held & False for held in self.held])",
    ),
    _solver(
        "a row is spoken of by the mean over all folds",
        "self.problem.valid_logits(solution, self.folds)",
        "self.problem.valid_logits(solution, (self.folds + 1) % len(self.held))",
    ),
    _solver(
        "rows with a modality taken away weigh 1",
        "weights.append(data.weights * dropped)",
        "weights.append(data.weights)",
    ),
    _solver("whole rows weigh 1 beside them", "[data.weights * (1 - dropped) / views]", "[data.weights / views]"),
    _solver("candidates are left that were not what was chosen from", "        tried = []  #", "        pass  #"),
    _newton(
        "the tolerance does not follow the penalty", "torch.where(ridge > 0, ridge, curvature)", "curvature + ridge"
    ),
    _newton("steps are corrected by what nobody measured", "torch.where(length > 0, 1 / length, 0.0)", "length"),
    _path("the path ends where it was said to end, best or not", "_FURTHER = 8", "_FURTHER = 0"),
    _path("nobody hears that the NLL still falls", "if _gains(way)", "if False"),
    _context("groups weigh as much as they have rows", 'self.config.data.group_weights == "equal"', "False"),
    _context(
        "class weights do not reach the head",
        "weights, own = self.label_weights[rows],",
        "weights, own = np.ones(len(rows)),",
    ),
    _context("what was trained for another strategy costs nothing", "self._reused += self._memory[what][1]", "pass"),
    _context("the head sees views that encoders were trained on", "_HEAD_EPOCH = 1_000_000", "_HEAD_EPOCH = 1"),
    _prepare("class weights do not have the mean 1", "weights / weights[train].mean()", "weights"),
    _prepare(
        "class weights have the mean 1 over all rows, not those of training",
        "weights / weights[train].mean()",
        "weights / weights.mean()",
    ),
    _prepare(
        "scales and words are learnt from the test part too",
        "prepare_modality(modality, table, schema, train,",
        "prepare_modality(modality, table, schema, np.arange(len(labels)),",
    ),
    _prepare("checkpoints of other labels are gone on with", "    digest.update(labels.tobytes())\n", ""),
    _prepare("checkpoints of another split are gone on with", "    digest.update(split.hash.encode())\n", ""),
    _prepare(
        "checkpoints of other inputs are gone on with",
        "        digest.update(source.digests.tobytes())\n",
        "        pass\n",
    ),
    _prepare(
        "checkpoints of other settings are gone on with",
        "    digest.update(json.dumps(tree, sort_keys=True).encode())\n",
        "",
    ),
    _crossfit("a fold's network sees its own fold", "folds.rows[~held], stage, ", "folds.rows, stage, "),
    _crossfit(
        "a fold's best epoch is chosen on training rows",
        "stage, folds.rows[held], settings)",
        "stage, folds.rows[~held], settings)",
    ),
    _crossfit(
        "a row is spoken of by a network that saw it",
        "folds.encoder == fold, network.only",
        "folds.encoder == (fold + 1) % len(networks), network.only",
    ),
    _crossfit(
        "a row is spoken of by the mean over all networks",
        "    block = Block(name, name, networks, True, views, held[None], z)",
        "    held = np.mean([logits_of_alone(n, ctx.encode(name, n.only[0], rows)[0]) for n in networks], 0)\n"
        "    block = Block(name, name, networks, True, views, held[None], z)",
    ),
    _crossfit(
        "logits of an untrained encoder are those of the final classifier",
        "views=_repeated(ctx, part.held), plain=part.held[None]",
        "views=logits_of_alone(part.networks[0], views), plain=logits_of_alone(part.networks[0], part.block.plain)",
    ),
    _crossfit(
        "words speak of the rows that they were learnt from",
        "folds.head, words=True)\n",
        "folds.head, words=True)\n        held = logits_of_alone(network, counts[0])\n",
    ),
    _one_fold(
        "the rows that both ways are judged on teach the encoder, too",
        "ctx, name, folds.rows[~here],",
        "ctx, name, folds.rows,",
    ),
    _undone(
        "each fold decides whether fine-tuning is undone",
        "    if after < before:\n",
        "    if all(h.best_nll < h.start_nll for h in histories):\n",
    ),
    _undone(
        "one fold that was helped is enough",
        "    if after < before:\n",
        "    if any(h.best_nll < h.start_nll for h in histories):\n",
    ),
    _undone("fine-tuning is never undone", "    if after < before:\n", "    if True:\n"),
    Mutant(
        "src/fusetune/strategies/blocks.py",
        "held-out rows are spoken of by the network that learnt from them",
        "    if not folds.pooled:\n",
        "    if True:\n",
        (_CROSSFIT,),
    ),
    Mutant(
        "src/fusetune/strategies/blocks.py",
        "what a modality alone says of held-out rows is said by its own network",
        "part.held[places])",
        "np.mean([n.only[1](torch.from_numpy(np.array(part.block.z))).numpy() for n in part.networks], 0)[places])",
        (_CROSSFIT,),
    ),
    Mutant(
        "src/fusetune/strategies/base.py",
        "rows that nothing was held out for are spoken of",
        "        if not np.array_equal(",
        "        places = np.minimum(places, len(self.rows) - 1)\n        if False and not np.array_equal(",
        (_CROSSFIT,),
    ),
    Mutant(
        "src/fusetune/strategies/blocks.py",
        "words are read whether they help or not",
        "    if after < before:\n",
        "    if True:\n",
        (f"{_UNIMODAL}::test_words_are_read_only_where_they_lower_the_nll_of_the_head",),
    ),
    _unimodal(
        "a classifier speaks of its own rows",
        "held[has] = fit.held",
        "held[has] = (features[0][has] @ network.only[1].weight.numpy().T + network.only[1].bias.numpy())",
    ),
    _unimodal(
        "a network of other rows is used again",
        'hashlib.sha256(rows.tobytes() + b"|" + held',
        'hashlib.sha256(b"|" + held',
    ),
    _unimodal("a network that other rows chose is used again", '+ b"|" + held.tobytes() +', '+ b"|" +'),
    _unimodal("a network of other settings is used again", "+ settings.model_dump_json().encode()", ""),
    _unimodal(
        "a network of another way to choose is used again",
        '"fine-tuned", name, str(single), digest',
        '"fine-tuned", name, digest',
    ),
    _unimodal("stage U may see validation rows", '        ctx.split.check(rows, "train")\n', ""),
    _unimodal("the best epoch of stage U is chosen on training rows", "held=held[source.present[held]],", "held=rows,"),
    # Rivals.
    _ensemble(
        "held-out rows use temperatures fitted on themselves",
        "heats = {name: _crossed(",
        "heats = dict(temperatures) or {name: _crossed(",
    ),
    _ensemble(
        "the folds of the temperatures are mixed up",
        "_temperature(ctx, logits, has & ~here, rows)",
        "_temperature(ctx, logits, has & here, rows)",
    ),
    _ensemble(
        "the ensemble is not calibrated",
        'several = present_bits(ctx.sources, rows, torch.device("cpu")), len(names) > 1',
        'several = present_bits(ctx.sources, rows, torch.device("cpu")), False',
    ),
    _end_to_end(
        "what is said of held-out rows is said of training rows",
        "held_by(ctx, network, held)",
        'held_by(ctx, network, ctx.split.rows("train")[: len(held)])',
    ),
    _end_to_end(
        "validation rows are learnt from",
        'method.training_on(ctx.split.rows("train"), held)',
        'method.training_on(torch.cat([*map(torch.from_numpy, (ctx.split.rows("train"), held))]).numpy(), held)',
    ),
    _end_to_end(
        "the best epoch is chosen on training rows",
        'method.training_on(ctx.split.rows("train"), held)',
        'method.training_on(ctx.split.rows("train"), ctx.split.rows("train"))',
    ),
    _end_to_end(
        "the start is chosen on the rows that it was solved on",
        "        for rows in (train, valid)\n",
        "        for rows in (train, train)\n",
    ),
    Mutant(
        "src/fusetune/train/loop.py",
        "the last epoch is kept and called the best",
        "    load(model, best)\n    return history",
        "    return history",
        ("tests/train/test_train_loop.py::test_best_weights_come_back",),
    ),
    Mutant(
        "src/fusetune/train/loop.py",
        "the start does not compete with the epochs",
        "history.start_nll if start_counts else math.inf",
        "math.inf",
        ("tests/train/test_train_loop.py::test_best_weights_come_back",),
    ),
    Mutant(
        "src/fusetune/strategies/linear_probe.py",
        "the traditional rival reads cells through a random network",
        'if kind in ("image", "text"):',
        "if True:",
        (_RIVALS,),
    ),
    Mutant(
        "src/fusetune/strategies/ume.py",
        "the ensemble lacks a modality",
        "list(ctx.modalities)",
        "list(ctx.modalities)[1:]",
        (_RIVALS,),
    ),
    Mutant(
        "src/fusetune/strategies/rivals.py",
        "every modality alone is the first one",
        "AloneSettings(modality=name)",
        "AloneSettings(modality=next(iter(ctx.modalities)))",
        (_RIVALS,),
    ),
    Mutant(
        "src/fusetune/strategies/majority.py",
        "the majority is judged on test rows when rows are held out",
        'ctx.cost(), ctx.split.rows("valid")',
        "ctx.cost(), np.flatnonzero(ctx.split.part == 2)",
        (_RIVALS,),
    ),
    Mutant(
        "src/fusetune/strategies/majority.py",
        "class frequencies know the test part",
        "ctx.target.prior(ctx.labels[rows], ctx.counted(rows))",
        "ctx.target.prior(ctx.labels)",
        (_RIVALS,),
    ),
    # The one rule of the judge.
    _judge(
        "rivals are scored without their temperature",
        "measure.scores(c.probe.p, test.labels",
        "measure.scores(c.probe.p if c is ours else measure.say(c.outputs.f.numpy()), test.labels",
    ),
    _judge(
        "everybody's temperature is used whether it helps or not",
        "self.outputs, self.scaled.heat.value,",
        "self.outputs, self.scaled.heat.fitted,",
    ),
    _judge(
        "the chosen model's validation rows use a temperature that does not help",
        ".f.numpy(), ours.scaled.heat.value)",
        ".f.numpy(), ours.scaled.heat.fitted)",
    ),
    _judge(
        "the candidates of a choice are forgotten, so that it flatters",
        "rows), fitted.tried, row_folds",
        "rows), (), row_folds",
    ),
    _judge("rows that chose are called unseen", "chosen_elsewhere=pooled", "chosen_elsewhere=True"),
    _judge(
        "validation NLLs of the gain table know no temperature",
        "float(average(measure.lost_rows(c.scaled.p, labels), counted))",
        "c.scaled.heat.before",
    ),
    _judge(
        "comparisons take the rival without its temperature",
        "ours.probe.p, other.probe.p",
        "ours.probe.p, softmax(other.outputs.f.numpy())",
    ),
    _judge(
        "rivals lose their temperature when inputs are missing",
        "{c.name: c.probe.again for c",
        "{c.name: replace(c.probe, temperature=1.0).again for c",
    ),
    _judge(
        "no interval knows of groups",
        "return None if ctx.groups is None else ctx.groups.iloc[rows].to_numpy()",
        "return None",
    ),
    _judge(
        "p-values are not corrected for their number",
        "zip(comparisons, holm([c.p for c in comparisons])",
        "zip(comparisons, [c.p for c in comparisons]",
    ),
    _judge(
        "p-values by group are not corrected for their number",
        "zip(corrected, holm(by_group)",
        "zip(corrected, by_group",
    ),
    _judge(
        "the test part is opened before certainty is learnt",
        _LEARNING + _OPENING,
        _OPENING + _LEARNING,
    ),
    Mutant(
        "src/fusetune/model.py",
        "rows that chose are not known to the model",
        'np.concatenate([ctx.split.rows("train"), ctx.split.rows("valid")])',
        'ctx.split.rows("train")',
        ("tests/test_judge.py",),
    ),
    Mutant(
        "src/fusetune/model.py",
        "the model knows no row that it was made from",
        "ctx.runtime, seen, calibration)",
        "ctx.runtime, np.zeros(0, np.uint64), calibration)",
        ("tests/test_judge.py",),
    ),
    Mutant(
        "src/fusetune/judging.py",
        "rows that the model was made from are not counted when it is judged",
        '"seen": int(np.isin(answers.digests, self.seen).sum())',
        '"seen": 0',
        ("tests/test_model.py",),
    ),
    Mutant(
        "src/fusetune/estimator.py",
        "scikit-learn's estimator divides groups",
        "group=self.group,\n                share",
        "share",
        ("tests/test_estimator.py::test_a_group_is_no_input_and_is_kept_together",),
    ),
    # What is learnt on validation rows.
    _calibration(
        "rows are scaled by a temperature that they helped to fit",
        "measure.say(logits / heats)",
        "measure.say(logits, heat.value)",
    ),
    _calibration(
        "a choice is scored on the rows that made it",
        "logits = crossfit(tried, rows.labels, folds, measure.losses_of, rows.sampling)",
        "pass",
    ),
    _calibration("choices are always called cross-fitted", "crossfitted or chosen_elsewhere, folds)", "True, folds)"),
    _calibration(
        "thresholds are chosen on what knows the rows",
        "thresholds(held, aim, positive)",
        "thresholds(rows.answered(rows.measure.say(rows.outputs.f.numpy(), scaled.heat.value)), aim, positive)",
    ),
    _calibration(
        "prediction sets come from what knows the rows",
        "held = rows.answered(scaled.p, scaled.folds)",
        "held = rows.answered(rows.measure.say(rows.outputs.f.numpy(), scaled.heat.value), scaled.folds)",
    ),
    _calibration("prediction sets know no groups", "self.pattern, self.sampling, folds)", "self.pattern, None, folds)"),
    # Labels.
    _labels(
        "labels are scaled by temperatures that their own rows helped to fit",
        "known = at[here][0]  # by",
        "known = before  # by",
    ),
    _labels(
        "a label takes a temperature of its own from a handful of rows",
        "if min((y > 0).sum(), (y == 0).sum()) < FEW:",
        "if False:",
    ),
    _said(
        "the threshold of a label is that of another",
        "choose_threshold(aim_here, p, has, rows.groups)",
        "choose_threshold(aim_here, rows.p[:, 0], has, rows.groups)",
    ),
    _said(
        "labels are judged by thresholds of the judged rows",
        "p, has, groups, called = rows.p, rows.truth > 0, rows.groups, rule.called(rows.p) > 0",
        "p, has, groups, called = rows.p, rows.truth > 0, rows.groups, rows.p >= rows.p.mean(0)",
    ),
    _said("thresholds of labels are not followed", "probabilities >= np.array(self.limits)", "probabilities > 0.5"),
    # Numbers.
    _reach(
        "a row calibrates the band that it taught",
        "fit_band(said[~here], rest[~here], some(groups, ~here))",
        "fit_band(said, rest, groups)",
    ),
    _reach("both ways of intervals are tried on rows that they know", "known = ~here", "known = here | ~here"),
    _reach("a band need not be narrower", "keeps[1] and (narrower or not keeps[0])", "keeps[1]"),
    _reach("a band that does not hold is used where narrow", "keeps[1] and (narrower or not keeps[0])", "narrower"),
    _reach("the errors of both ways take rows for independent", "judged = some(groups, finite)", "judged = None"),
    _threshold(
        "a fold chooses its own threshold",
        "choose_threshold(F1, probability[~here], positive[~here], some(groups, ~here))",
        "choose_threshold(F1, probability[here], positive[here], some(groups, here))",
    ),
    _threshold("a larger F1 is enough, whatever its error", "return gain > error", "return gain > 0"),
    _threshold(
        "the error of F1 takes rows for independent",
        "where, called = clusters(groups, len(positive))",
        "where, called = clusters(None, len(positive))",
    ),
    _temperature(
        "a temperature need not earn its place",
        "helps = float(metrics.average(scaled - plain, weights)) + error < 0",
        "helps = True",
    ),
    _temperature("a lower NLL is enough, whatever its error", ", weights)) + error < 0", ", weights)) < 0"),
    _temperature(
        "a fold's temperature is fitted on itself",
        "fit_temperature(logits[~here] / known, labels[~here], losses_of, some(groups, ~here))",
        "fit_temperature(logits[here] / known, labels[here], losses_of, some(groups, here))",
    ),
    _temperature(
        "a temperature is judged on the rows that it was fitted on",
        "heats[here] = known * fit_temperature(logits[~here] / known, labels[~here], losses_of, some(groups, ~here))",
        "heats[here] = fitted",
    ),
    _temperature("a fold's own rows choose its candidate", "losses[:, ~here].T, weights_in(others)", "losses.T, None"),
    _temperature(
        "the error of a temperature takes rows for independent",
        "    where = clusters(groups, len(values))\n",
        "    where = clusters(None, len(values))\n",
    ),
    _temperature("a few right rows make certainty endless", " + log_t**2 / (2 * _SPREAD**2)", ""),
    _conformal("the new row is not counted", "where.count + 1.0", "where.count + 0.0"),
    _conformal(
        "large groups weigh more",
        "1 / np.bincount(where.member, minlength=where.count)[where.member]",
        "np.full(len(values), where.count / len(values))",
    ),
    _conformal(
        "patterns of missing inputs share a threshold",
        "{name: pattern == name for name in own} |",
        '{name: pattern != "" for name in own} |',
    ),
    _conformal(
        "sets by pattern use the common threshold",
        "by_pattern.get(str(name), by_pattern[OTHER]) for",
        "by_pattern[OTHER] for",
    ),
    _conformal("patterns of few rows promise what they cannot keep", "if rows >= 1 / (1 - COVERAGE)]", "]"),
    _conformal("a class's own probability counts in full", "above + chance[:, None] * ordered", "above + ordered"),
    _threshold("the threshold gives up most of the other rate", "reached.max() if rate in", "reached.min() if rate in"),
    _threshold(
        "rates know no groups", "proportion(right[counted], some(groups, counted))", "proportion(right[counted])"
    ),
    Mutant(
        "src/fusetune/evaluate/analysis.py",
        "the threshold is chosen on the judged rows",
        "judge_threshold(limit, p[:, at]",
        "judge_threshold(float(p[rows.labels == at, at].min()), p[:, at]",
        ("tests/evaluate/test_evaluate_analysis.py",),
    ),
    # Intervals.
    _intervals(
        "metrics are resampled by row",
        "weights_in(groups))\n    where = clusters(groups, len(y))",
        "weights_in(groups))\n    where = clusters(None, len(y))",
    ),
    _intervals(
        "differences are resampled by row", "means(columns, groups, resamples", "means(columns, None, resamples"
    ),
    _intervals(
        "means are resampled by row", "where = clusters(groups, len(columns))", "where = clusters(None, len(columns))"
    ),
    _intervals(
        "bounds are on the wrong sides",
        "np.quantile(finite, [tail, 1 - tail])",
        "np.quantile(finite, [1 - tail, tail])",
    ),
    _intervals(
        "bounds leave out the level on each side",
        "reach = student.ppf((1 + LEVEL) / 2, count - 1)",
        "reach = student.ppf(LEVEL, count - 1)",
    ),
    _intervals(
        "few groups get the bounds of many",
        "student.ppf((1 + LEVEL) / 2, count - 1) * math.sqrt(count / (count - 1))",
        "norm.ppf((1 + LEVEL) / 2)",
    ),
    _intervals(
        "shares know no design effect", "_wilson(share, effective, float", "_wilson(share, float(len(right)), float"
    ),
    _intervals("shares know no Student's quantile", "float(student.ppf((1 + LEVEL) / 2, freedom))", "z"),
    _intervals(
        "a variance that few groups carry counts as well known",
        "heavy = max(float((sums**4).mean()) / square**2 - 3, 0.0)",
        "heavy = 0.0",
    ),
    _intervals(
        "all right in few groups is all right in many rows",
        "_wilson(share, where.effective, z)",
        "_wilson(share, len(right), z)",
    ),
    _intervals(
        "groups that vary little count as more rows than there are",
        "min(float(where.mean(residuals**2)) / variance, float(own.sum() ** 2 / (own**2).sum()))",
        "float(where.mean(residuals**2)) / variance",
    ),
    _bootstrap(
        "every group is drawn once",
        "random.integers(0, count, size=(size, count))",
        "np.tile(np.arange(count), (size, 1))",
    ),
    _bootstrap(
        "a label that all drawn rows have counts as ranked",
        "area[rest == 0] = np.nan",
        "area[total == 0] = np.nan",
    ),
    # Paired tests.
    _mcnemar(
        "the test of rows is one-sided",
        "binomtest(gained, gained + lost).pvalue",
        'binomtest(gained, gained + lost, alternative="greater").pvalue',
    ),
    _paired(
        "the exact test of groups is one-sided",
        "float((np.abs(signs @ sums) >= least).mean())",
        "float((signs @ sums >= least).mean())",
    ),
    _paired(
        "the random test of groups is one-sided",
        "int((np.abs(signs @ sums) >= least).sum())",
        "int((signs @ sums >= least).sum())",
    ),
    _paired(
        "the test of groups ignores groups", "where = clusters(groups, len(rows))", "where = clusters(None, len(rows))"
    ),
    _paired(
        "a p-value may be zero",
        "return (1 + _as_far(sums, least, draws, np.random.default_rng(seed))) / (1 + draws)",
        "return _as_far(sums, least, draws, np.random.default_rng(seed)) / draws",
    ),
    _paired(
        "p-values are corrected in the order in which they come",
        "sorted(range(len(p_values)), key=lambda index: p_values[index])",
        "list(range(len(p_values)))",
    ),
    _paired(
        "a larger p-value may become the smaller one",
        "worst = max(worst, min(1.0, p_values[index] * (len(p_values) - rank)))",
        "worst = min(1.0, p_values[index] * (len(p_values) - rank))",
    ),
    _paired("all p-values are corrected by what is left", "(len(p_values) - rank)", "max(len(p_values) - rank - 1, 1)"),
    # What several trainings say of numbers and labels, and what they ask for.
    _trained_numbers(
        "R2 of several seeds has the variance of all rows",
        "self._rescaled(self._spread(y), first, second)",
        "np.ones(len(drawn))",
    ),
    _standings("of a number, nearer is as good as much nearer", " and ground.measure.decides", ""),
    _family(
        "an error is small where the number varies little",
        "(float(seen.sum()) + _WEIGHT), _LEAST)",
        "(float(seen.sum()) + _WEIGHT), 1.0)",
    ),
    # What a modality is worth, and where a model is worst.
    _modalities(
        "shares of modalities are weighed by the wrong sizes",
        "factorial(count - len(some) - 1) / factorial(count)",
        "factorial(count - len(some)) / factorial(count)",
    ),
    _modalities("inputs that are there are the ones taken away", "chance[:, at] >= rate", "chance[:, at] < rate"),
    _modalities("a row lends itself its own features", "donors[order] = np.roll(order, 1)", "donors[order] = order"),
    _selective(
        "the surest rows are left unanswered", 'np.argsort(-sure, kind="stable")', 'np.argsort(sure, kind="stable")'
    ),
    _metrics("a certain mistake costs little", "SMALLEST_PROBABILITY = 1e-12", "SMALLEST_PROBABILITY = 1e-2"),
    _metrics(
        "ties count as ranked rightly",
        "rankdata(probabilities[:, present], axis=0)",
        'rankdata(probabilities[:, present], axis=0, method="max")',
    ),
    _metrics(
        "a calibration error is the error of the mean",
        "np.abs(sums).sum() / rows",
        "np.abs(sums.sum()) / rows",
    ),
    # What rows count.
    Mutant(
        "src/fusetune/context.py",
        "weights of rows do not reach losses",
        "weights = weights if own is None else weights * own",
        "weights = weights * 1.0",
        (_WEIGHTS,),
    ),
    Mutant(
        "src/fusetune/heads/base.py",
        "choices take rows of other weights for alike",
        "self.target.nll(f, self.labels[rows], counted)",
        "self.target.nll(f, self.labels[rows])",
        ("tests/heads/test_heads_weights.py",),
    ),
    Mutant(
        "src/fusetune/evaluate/intervals.py",
        "scores take rows of other weights for alike",
        "metrics.score(p, y, weights_in(groups))",
        "metrics.score(p, y)",
        (_WEIGHED,),
    ),
    Mutant(
        "src/fusetune/evaluate/conformal.py",
        "weights are as much evidence as copies",
        "(each**2).sum() / each.sum()",
        "each.min()",
        (_WEIGHED,),
    ),
    Mutant(
        "src/fusetune/evaluate/threshold.py",
        "thresholds take rows of other weights for alike",
        "np.cumsum(where.own[rows][order])",
        "np.cumsum(np.ones(len(order)))",
        (_WEIGHED,),
    ),
    Mutant(
        "src/fusetune/evaluate/threshold.py",
        "rounded sums of weights miss an aim that copies reach",
        "0.0 if where.weights is None else 1e-12",
        "0.0",
        (_WEIGHED,),
    ),
    Mutant(
        "src/fusetune/evaluate/measures/labels.py",
        "thresholds of labels know no weights",
        "choose_threshold(aim_here, p, has, rows.groups)",
        "choose_threshold(aim_here, p, has)",
        (_WEIGHED,),
    ),
    Mutant(
        "src/fusetune/evaluate/measures/classes.py",
        "the threshold of two classes knows no weights",
        "rows.truth == at, rows.groups)",
        "rows.truth == at)",
        (_WEIGHED,),
    ),
    Mutant(
        "src/fusetune/evaluate/temperature.py",
        "temperatures of labels know no weights",
        "calibrate(f, y, folds, groups, losses_of, (common.common, at))",
        "calibrate(f, y, folds, None, losses_of, (common.common, at))",
        (_WEIGHED,),
    ),
    Mutant(
        "src/fusetune/evaluate/reach.py",
        "the band takes rows of other weights for alike",
        "bounds = np.column_stack([np.zeros(len(own)), own])",
        "bounds, wanted = (0, 1), (1 - share) * hats.sum(0)",
        (_WEIGHED,),
    ),
    Mutant(
        "src/fusetune/evaluate/reach.py",
        "both ways of intervals are compared by rows of other weights as alike",
        "weights = weights_in(judged)",
        "weights = None",
        (_WEIGHED,),
    ),
    Mutant(
        "src/fusetune/judge.py",
        "McNemar's test speaks for weighted rows",
        "if weighed is not None:",
        "if False:",
        (_WEIGHTS,),
    ),
    Mutant(
        "src/fusetune/data/weights.py",
        "rows of weight 0 are judged",
        ".take(weights > 0)",
        ".take(weights >= 0)",
        ("tests/data/test_data_weights.py",),
    ),
    # What is used again.
    _store("features of other weights are used again", '            "weights": weights,\n', ""),
    _store("features of another view are used again", "[[m.seed, m.epoch, m.view] for m in views]", "len(views)"),
    _store("features of another augmentation are used again", '            "augment": what.augment.describe(),\n', ""),
    _store(
        "features of other rows are used again", "for array in (what.source.digests[rows], what", "for array in (what"
    ),
    _store("views of other rows are used again", "what.keys[rows] if views else rows[:0]", "rows[:0]"),
    _store("features of another precision are used again", '            "precision": self.runtime.precision,\n', ""),
    _store(
        "features in use go when room is made",
        "self._vault.make_room(features.nbytes, self._in_use())",
        "self._vault.make_room(features.nbytes)",
    ),
    # Files that are one table.
    _handing("rows of a piece are numbered anew", "            start += len(read)\n", ""),
    _problems("what is bare in a piece is not counted", 'counts["rows"])) + bare', 'counts["rows"]))'),
    _problems(
        "ids that stand twice are not told", "    twice = found[counts > 1]\n", "    twice = found[counts > 2]\n"
    ),
    _plan("a plan leaves the plain inputs out", "config.views + 1", "config.views"),
    _dataset("a file of other columns is one of the table", "    if here != there:\n", "    if here < there:\n"),
    _dataset("rows between two batches are lost", "waiting, count = [held.slice(size)]", "waiting, count = [held[:0]]"),
    _dataset(
        "a file may hold fewer rows than it says",
        "            if rows != self.rows:\n",
        "            if rows > self.rows:\n",
    ),
    _store("weights are told apart by their shapes alone", "        digest.update(_bytes(tensor))\n", ""),
)
