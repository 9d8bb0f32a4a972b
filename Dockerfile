# The serving image: locked packages, classifier/, service/ and models/default. BASE is any image with Python 3.11 or
# newer as `python3`; TORCH_INDEX decides which build of torch goes in (for CUDA, pass an index that has that one).
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS builder
# Debian packages the venv module apart from Python.
RUN python3 -c 'import ensurepip, venv' 2>/dev/null \
    || (apt-get update && apt-get install -y --no-install-recommends python3-venv)
RUN python3 -m venv /opt/venv
COPY requirements/serve.txt requirements/torch.txt /build/
# Unlike `make serve`, byte code is compiled here: a read-only container could not keep what it compiles.
RUN /opt/venv/bin/python -m pip install --no-cache-dir --no-deps --require-hashes -r /build/serve.txt
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN /opt/venv/bin/python -m pip install --no-cache-dir --index-url "${TORCH_INDEX}" -r /build/torch.txt \
    && /opt/venv/bin/python -m pip uninstall -y pip
COPY classifier /app/classifier
COPY service /app/service
COPY models/default /app/models/default
# Byte code not in models/: an artifact holds only what its manifest lists.
# Readable for any user id, whatever the checkout's file modes.
RUN /opt/venv/bin/python -m compileall -q /app/classifier /app/service && chmod -R a+rX /app /opt/venv

FROM ${BASE}
# SageMaker may choose the port (SAGEMAKER_BIND_TO_PORT) of a container with this label.
LABEL com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true
# HOME, USER: libraries ask for both, and an arbitrary user id has no entry in /etc/passwd.
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1 \
    HOME=/tmp \
    USER=service \
    SERVICE_HOST=0.0.0.0
WORKDIR /app
COPY --from=builder /opt/venv /opt/venv
COPY --from=builder /app /app
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s CMD ["/opt/venv/bin/python", "-c", "import os, urllib.request as r; port = os.environ.get('SAGEMAKER_BIND_TO_PORT') or os.environ.get('SERVICE_PORT') or '8080'; r.build_opener(r.ProxyHandler({})).open(f'http://127.0.0.1:{port}/readyz', timeout=4)"]
# No USER line: SageMaker expects root. Elsewhere: docker run --user 10001 --read-only --tmpfs /tmp.
# Exec form with the interpreter itself, so that SIGTERM reaches it; SageMaker replaces `serve` or appends it.
ENTRYPOINT ["/opt/venv/bin/python", "-m", "service"]
CMD ["serve"]
