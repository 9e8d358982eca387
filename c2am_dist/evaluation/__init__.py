"""Evaluation: ``evaluate(config)`` runs the job; ``tally.py`` is what its tasks count."""

from c2am_dist.evaluation.job import evaluate, markdown, uri_of_table

__all__ = ["evaluate", "markdown", "uri_of_table"]
