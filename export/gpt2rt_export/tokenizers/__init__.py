"""Published tokenizers turned into the files of a bundle."""
