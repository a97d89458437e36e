"""The paper's experiments (arXiv 2505.06592) as published and repaired: every flaw a switch, every pass counted."""
