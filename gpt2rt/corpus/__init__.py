"""Whole corpora: texts from files, cut into shards, each worked on and written by itself."""
