"""The paper's experiments (arXiv 2505.06592) as published and repaired: every flaw is a switch, every pass is counted."""
