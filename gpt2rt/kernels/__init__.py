"""The kernels: custom operators of ONNX Runtime, in C, for the functions of a bundle's graph."""
