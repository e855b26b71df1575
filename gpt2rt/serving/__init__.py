"""An HTTP server for models: OpenAI's API, scores, vectors and a page (extra `serve`)."""
