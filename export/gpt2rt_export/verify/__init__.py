"""A bundle held against its checkpoint before it is published."""
