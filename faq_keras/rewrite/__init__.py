"""Rebuild a float model as a quantized one, layer by layer, as its plan says."""
