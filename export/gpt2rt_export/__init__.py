"""gpt2rt's exporter: a GPT-2 checkpoint becomes a bundle. Needs the extra `export`."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow reads it when first imported
