"""The papers: torch, numpy and OpenCV in one process, without Ray, collectives or I/O."""
