"""Evaluates a given text with the model: log-probabilities, surprisal, embeddings."""
