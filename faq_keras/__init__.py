"""Fine-tuning after quantization for Keras: float CNN in, integer TFLite out, bit for bit."""
