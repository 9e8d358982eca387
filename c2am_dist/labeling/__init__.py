"""Labeling: ``label(config)`` runs the job, ``stages.py`` is what its workers do."""

from c2am_dist.labeling.job import LabelReport, dry_run, label

__all__ = ["LabelReport", "dry_run", "label"]
