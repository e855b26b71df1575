# `gpt2rt serve` on a processor: docs/deploy.md.
ARG BASE=python:3.13.11-slim-bookworm

FROM ${BASE} AS build
ARG EXTRAS=serve,constrain
WORKDIR /source
COPY . .
# The slim image has no compiler, so the kernels are compiled by zig's, which pip fetches for that.
# onnxruntime-gpu holds 250 MB for CUDA, of no use here.
RUN python -m venv --without-pip /opt/gpt2rt \
    && pip --python /opt/gpt2rt install --no-cache-dir ".[${EXTRAS}]" \
    && pip --python /opt/gpt2rt uninstall --yes onnxruntime-gpu \
    && pip --python /opt/gpt2rt install --no-cache-dir "onnxruntime>=1.24"

FROM ${BASE}
COPY --from=build /opt/gpt2rt /opt/gpt2rt
ENV PATH=/opt/gpt2rt/bin:$PATH \
    GPT2RT_HOME=/models
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s CMD \
    ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/ready', timeout=4)"]
ENTRYPOINT ["gpt2rt", "serve", "--host", "0.0.0.0"]
