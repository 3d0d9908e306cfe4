"""Accuracy without training: what a quantized network learns from a few unlabelled images."""
