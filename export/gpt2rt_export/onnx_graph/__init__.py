"""The graph: traced in TensorFlow, converted to ONNX, fused, quantised."""
