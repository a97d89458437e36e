"""What is wrong with a table before anything is trained on it: findings with row ids, evidence and a remedy.

`examine` runs all checks, `treat` applies the policy. One file per family of checks; `examined` is what they look at.
"""
