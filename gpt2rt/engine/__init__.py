"""The model at work: ONNX Runtime's sessions, keys and values, prefixes."""
