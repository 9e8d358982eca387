"""Ray Data: formats in (prepare), shards out to batches (stream), and generated images."""
