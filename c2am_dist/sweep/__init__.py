"""Sweeps: many trainings with Ray Tune, scored and compared; ``job.sweep`` runs one."""
