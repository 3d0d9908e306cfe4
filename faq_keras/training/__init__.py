"""Fine-tune a quantized (or any) Keras model with the recipes of the FAQ paper.

The one idea: quantization adds noise to the gradient, so start close (a pretrained network) and
average the noise away with a small, decaying learning rate, more epochs and larger batches. All of
it is an optimizer and two callbacks around an ordinary Keras `fit`:

    from faq_keras.training import fine_tune
    history = fine_tune(q, train_data, recipe="w4a4", epochs=4, workdir="runs/first")
"""

from faq_keras.training.optimizer import SGD
from faq_keras.training.recipes import Recipe, recipe
from faq_keras.training.trainer import fine_tune

__all__ = ["SGD", "Recipe", "fine_tune", "recipe"]
