"""Makes the graphs of a bundle: traced in TensorFlow, converted to ONNX, fused, quantised."""
