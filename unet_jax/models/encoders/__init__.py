"""Encoders that have published ImageNet weights: features at strides 2 to 32."""
