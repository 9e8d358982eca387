"""Training: ``fit(config)`` starts the workers, ``loop.py`` is what each of them does."""

from c2am_dist.training.fit import FitResult, dry_run, fit

__all__ = ["FitResult", "dry_run", "fit"]
