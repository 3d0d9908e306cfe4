"""What is done to a quantized network without labels or training, and what shows that it worked.

q = faq_keras.apply(model, bits=4, calibration_data=x)
print(faq_keras.reconstruct(q, x[:256]))     # in place: noise before and after, per layer
faq_keras.export_tflite(q, "model.tflite", weights="int4", verify=x)
"""
