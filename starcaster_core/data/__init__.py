"""Clips to learn from: the synthetic talking-head world, and the shards they are kept in."""
