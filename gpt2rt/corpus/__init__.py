"""Whole corpora: texts from files, cut into parts, each worked on and written by itself."""
