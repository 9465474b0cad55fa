"""Translates a function that JAX has traced to an ONNX graph; one module per kind of primitives."""
