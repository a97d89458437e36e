"""What the report's terms mean, one sentence each; the documentation's glossary is made of them, too."""

from __future__ import annotations

TERMS: dict[str, str] = {
    "95 % interval": (
        "Where the number would lie for most other samples of rows, drawn group by group where rows form "
        "groups: nineteen of twenty such intervals hold the true one."
    ),
    "Test rows": "Rows that nothing was learnt from and nothing chosen on; they were looked at once, at the end.",
    "Recall": "Of the rows of a class, the share that is decided as it.",
    "Precision": "Of the rows that are decided as a class, the share that is of it.",
    "F1": "The harmonic mean of recall and precision: high only where both are.",
    "NLL": (
        "The mean of minus the logarithm of the probability of the right class: 0 is perfect, and being sure "
        "and wrong costs most."
    ),
    "McNemar’s test": (
        "Counts the rows that only one of two models decides right, and asks how likely such a difference is by chance."
    ),
    "Groups swapped": (
        "The same question where rows of one group are alike: the two models are swapped for whole groups at random."
    ),
    "Holm’s correction": "Makes p-values larger because several were asked for: one of many is small by chance.",
    "p-value": "How often chance alone would show a difference at least as large, if there were none.",
    "Miscalibration": "The distance between how sure the model says it is and how often it is right.",
    "Prediction set": "Several classes instead of one, chosen so that the right one is among them as often as stated.",
    "Shapley share": "What an input adds to a decision, averaged over every order in which inputs could be given.",
    "Cross-fitted": "Said of a row by a model that did not learn from it.",
}

# The scores of a report: name, and what it means.
SCORES: dict[str, tuple[str, str]] = {
    "accuracy": ("Accuracy", "share of rows decided correctly"),
    "balanced_accuracy": ("Balanced accuracy", "mean recall of the classes: each class counts the same"),
    "macro_f1": ("Macro F1", "mean F1 of the classes"),
    "auroc": ("AUROC", "how well probabilities rank a class against the rest; 0.5 is chance"),
    "auprc": ("AUPRC", "the same from precision and recall; chance is the share of the class"),
    "nll": ("NLL", "negative log-likelihood in nats; lower is better, certain errors cost most"),
    "brier": ("Brier score", "squared distance of the probabilities to the label, 0 to 2; lower is better"),
    "ece": ("ECE", "mean distance between stated certainty and accuracy; lower is better"),
    "classwise_ece": ("Class-wise ECE", "the same for the probabilities of every class; lower is better"),
}

# Terms and scores of labels, of which a row has any number.
LABEL_TERMS: dict[str, str] = {
    name: meaning
    for name, meaning in TERMS.items()
    if name not in ("McNemar’s test", "Miscalibration", "Prediction set")
} | {
    "Recall": "Of the rows that have a label, the share that is said to have it.",
    "Precision": "Of the rows that are said to have a label, the share that has it.",
    "NLL": (
        "The mean of minus the logarithm of the probability of every label as it is, there or not, summed over the "
        "labels of a row: 0 is perfect, and being sure and wrong costs most."
    ),
    "Label accuracy": "Of all labels of all rows, the share that is rightly said or rightly left out.",
    "Sign test": (
        "Counts the rows in which one of two models has more labels right, and asks how likely such a difference is by "
        "chance."
    ),
}
LABEL_SCORES: dict[str, tuple[str, str]] = SCORES | {
    "label_accuracy": ("Label accuracy", "share of labels that are rightly said or rightly left out"),
    "subset_accuracy": ("All labels right", "share of rows with every label right (subset accuracy)"),
    "macro_f1": ("Macro F1", "mean F1 of the labels: each label counts the same"),
    "micro_f1": ("Micro F1", "F1 of all labels together: each label counts as often as it occurs"),
    "auroc": (
        "AUROC",
        "how well probabilities rank rows with a label before those without, mean of labels; 0.5 is chance",
    ),
    "auprc": ("AUPRC", "the same from precision and recall; chance is the share of rows that have the label"),
    "nll": ("NLL", "negative log-likelihood of all labels of a row in nats; lower is better, certain errors cost most"),
    "brier": ("Brier score", "mean squared distance of the probabilities to the labels, 0 to 1; lower is better"),
}

# Terms and scores of a number.
NUMBER_TERMS: dict[str, str] = {
    name: meaning
    for name, meaning in TERMS.items()
    if name in ("95 % interval", "Test rows", "Groups swapped", "Holm’s correction", "p-value", "Shapley share",
                "Cross-fitted")
} | {
    "MAE": "The mean of how far the number that was said is from the true one, whichever way, in the label’s own unit.",
    "RMSE": "The root of the mean squared error, in the label’s own unit: large errors count more than in the MAE.",
    "R²": (
        "The share of the label’s variance that is explained: 1 is perfect, 0 is as good as always answering the mean, "
        "and below 0 is worse than that."
    ),
    "Bias": "The mean of the number said minus the true one: above 0, too much is said on average.",
    "MSE/2": "What training lowers: half the mean squared error, with the label in deviations of the training rows.",
    "Prediction interval": (
        "A range instead of one number, chosen on validation rows so that the true number is within it as often as "
        "stated."
    ),
    "Sign test": (
        "Counts the rows in which one of two models is nearer to the true number, and asks how likely such a "
        "difference is by chance."
    ),
}  # fmt: skip
NUMBER_SCORES: dict[str, tuple[str, str]] = {
    "r2": ("R²", "share of the label’s variance that is explained; 1 is perfect, 0 is always answering the mean"),
    "mae": ("MAE", "mean absolute error, in the label’s unit; lower is better"),
    "rmse": ("RMSE", "root of the mean squared error, in the label’s unit; large errors count more"),
    "median_absolute_error": ("Median error", "half of the rows are nearer than this, in the label’s unit"),
    "bias": ("Bias", "mean of said minus true, in the label’s unit; 0 is best, above 0 too much is said"),
}
