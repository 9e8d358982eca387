"""Pseudo masks from class activation maps: ``refine(config)`` runs the job."""

from c2am_dist.refinement.job import refine

__all__ = ["refine"]
