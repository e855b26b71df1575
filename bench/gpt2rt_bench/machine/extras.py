"""The extras of gpt2rt, and the modules by which one is known to be installed."""

from __future__ import annotations

# Extra -> modules that it installs. Providers have findings of their own; `peers` are better
# installed in another environment.
EXTRAS = {
    "export": (
        "tensorflow",
        "tf2onnx",
        "onnx",
        "filelock",
        "google_crc32c",
        "httpx2",
        "ml_dtypes",
        "safetensors",
        "socksio",
    ),
    "hub": ("huggingface_hub",),
    "tokenizers": ("tokenizers",),
    "bench": ("psutil", "onnx", "archspec", "matplotlib", "simpy", "pynvml"),
    "constrain": ("llguidance",),
    "serve": ("fastapi", "uvicorn", "httptools", "prometheus_client", "jinja2"),
    "eval": ("sacrebleu", "rouge_score"),
    "lm-eval": ("lm_eval",),
    "llm": ("llm",),
    "files": ("pyarrow",),
    "urls": ("fsspec", "aiohttp", "filelock"),
    "web": ("onnx", "pydantic", "filelock", "httpx2", "socksio"),
    "ray": ("ray", "pyarrow", "yaml", "mmh3"),
}
