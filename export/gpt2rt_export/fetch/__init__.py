"""OpenAI's files: downloaded in parts, checked, resumed."""
