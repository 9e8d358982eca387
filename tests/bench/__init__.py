"""Benchmarks: each module's ``run()`` returns rows of name, ratio, target and detail."""
