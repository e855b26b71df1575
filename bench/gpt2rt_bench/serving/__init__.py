"""Measures HTTP servers of a model under many clients, beside the library itself."""
