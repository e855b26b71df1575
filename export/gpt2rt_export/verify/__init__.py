"""Compares a bundle with its checkpoint before it is published."""
