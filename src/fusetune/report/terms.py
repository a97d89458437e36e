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
