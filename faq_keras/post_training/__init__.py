"""What is done to a quantized network without labels or training, and what shows that it worked."""
