"""Training: ``fit(config)`` starts the workers, ``loop.py`` is what each of them does."""

from c2am_dist.training.estimate import dry_run
from c2am_dist.training.fit import FitResult, fit
from c2am_dist.training.inputs import Inputs, read_inputs

__all__ = ["FitResult", "Inputs", "dry_run", "fit", "read_inputs"]
