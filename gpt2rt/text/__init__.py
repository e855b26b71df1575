"""Text and tokens: the tokenizers, and the texts that users give."""
