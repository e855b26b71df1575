"""Bundles: a model's files, their manifest, and where they are found."""
