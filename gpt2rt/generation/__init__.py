"""Generates text: requests, batching, beam search, speculative decoding, stopping."""
