"""Evaluation: ``evaluate(config)`` runs the job; ``tally.py`` is what its tasks count."""

from c2am_dist.evaluation.job import evaluate, markdown

__all__ = ["evaluate", "markdown"]
