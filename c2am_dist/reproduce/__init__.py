"""The papers' tables as commands: rows are trained, labeled and scored by the jobs' functions."""
