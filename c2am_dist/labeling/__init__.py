"""Labeling: ``job.label(config)`` and ``classify.classify(config)`` run jobs.

Nothing is imported here: tasks import this package, too, and most have no use for torch.
"""
