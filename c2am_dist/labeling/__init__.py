"""Labeling: ``label(config)`` and ``classify(config)`` run jobs; ``stages.py`` is for workers."""

from c2am_dist.labeling.classify import classify
from c2am_dist.labeling.folder import LabelReport
from c2am_dist.labeling.job import dry_run, label

__all__ = ["LabelReport", "classify", "dry_run", "label"]
