"""C²AM on Ray: foreground maps learned from unlabeled images, and the labels they give."""

__version__ = "0.1.0"
