"""`python -m faq_keras` is the `faq` command."""

from faq_keras.cli.main import run

run()
