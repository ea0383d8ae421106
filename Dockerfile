# The environment and the checkout. GPUs need NVIDIA's container runtime (`docker run --gpus all`).
# `docker build -t proxykv . && docker run --rm -v "$PWD/results:/proxykv/results" proxykv`
FROM python:3.11-slim-bookworm
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /proxykv
COPY constraints.txt constraints-torch.txt ./
RUN pip install --no-cache-dir --require-hashes --no-deps -r constraints.txt \
    && pip install --no-cache-dir -r constraints-torch.txt
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e .
CMD ["snakemake", "--cores", "all"]
