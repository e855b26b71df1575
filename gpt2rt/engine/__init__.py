"""Runs a bundle's graphs: ONNX Runtime's sessions, keys and values, the prefix cache."""
