# Three images from locked packages. `serve` (the default) has the service, and nothing that only training, the page or a
# compiler needs. `train` has the service and the training, for `IMAGE train` and `IMAGE serve`. `page` has the Streamlit page.
#
#   docker build --target serve --tag gpt2-classifier .
#
# BASE: any image with Python 3.11 or newer as `python3`; `make lock ARGS=--upgrade` writes the digest of the default. RUNTIME:
# the base of the finished image, with the same Python; it may be smaller. TORCH_INDEX chooses the build of torch: the CPU's by
# default, and with https://pypi.org/simple that for CUDA 13. A secret named `pip` is pip's configuration during the build (a
# mirror, a proxy's certificate); it does not get into the image: docker build --secret id=pip,src=pip.conf.
ARG BASE=python:3.11-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b
ARG RUNTIME=${BASE}

FROM ${BASE} AS packages
# Debian packages pip apart from Python; strip is for libtorch below.
RUN python3 -m pip --version >/dev/null && command -v strip >/dev/null \
    || (apt-get update && apt-get install -y --no-install-recommends binutils \
        $(python3 -m pip --version >/dev/null 2>&1 || echo python3-pip))
COPY requirements/serve.txt requirements/torch.txt requirements/torch-cpu.txt requirements/cuda.txt requirements/sbom.txt \
    /build/requirements/
COPY scripts/install_torch.sh /build/scripts/
# Two environments, both without their own pip: one for the service, and one for the tool that lists its packages.
# --no-compile: byte code is made further down, for the modules that are used.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv --without-pip /opt/venv && python3 -m venv --without-pip /opt/sbom \
    && python3 -m pip --python /opt/sbom/bin/python install --no-cache-dir --no-compile --no-deps --require-hashes \
        -r /build/requirements/sbom.txt \
    && python3 -m pip --python /opt/venv/bin/python install --no-cache-dir --no-compile --no-deps --require-hashes \
        -r /build/requirements/serve.txt
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    sh /build/scripts/install_torch.sh "${TORCH_INDEX}" python3 -m pip --no-cache-dir --python /opt/venv/bin/python
COPY scripts/trim_packages.sh scripts/compile_used.sh /build/scripts/
RUN sh /build/scripts/trim_packages.sh /opt/venv
COPY pyproject.toml README.md /build/
COPY LICENSE NOTICE /app/
COPY scripts/entrypoint.py /app/entrypoint.py
COPY classifier /app/classifier
COPY service /app/service
COPY models/default /app/models/default

FROM packages AS serve-build
COPY scripts/smoke.py /app/scripts/smoke.py
COPY examples/article.txt /app/examples/article.txt
# The build fails unless the service answers with the remaining packages. Imported modules then get their byte code.
# torch requires setuptools only for building extensions, which nothing here does.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m pip --python /opt/venv/bin/python uninstall --yes --quiet setuptools \
    && /opt/venv/bin/python /app/scripts/smoke.py && rm -r /app/scripts /app/examples \
    && sh /build/scripts/compile_used.sh /opt/venv /app \
    && /opt/sbom/bin/cyclonedx-py environment --pyproject /build/pyproject.toml --output-reproducible \
        --output-file /build/sbom.cdx.json /opt/venv/bin/python \
    && chmod -R a+rX /app /opt/venv /build

FROM packages AS train-build
COPY requirements/train.txt /build/requirements/
COPY scripts/smoke.py /app/scripts/smoke.py
COPY examples/article.txt /app/examples/article.txt
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m pip --python /opt/venv/bin/python install --no-cache-dir --no-compile --no-deps --require-hashes \
        -r /build/requirements/train.txt \
    && sh /build/scripts/trim_packages.sh /opt/venv
COPY training /app/training
RUN /opt/venv/bin/python /app/scripts/smoke.py && rm -r /app/scripts /app/examples \
    && cd /app && /opt/venv/bin/python -c 'import training.fit.run, training.report.html, training.report.evaluate, transformers.trainer' \
    && sh /build/scripts/compile_used.sh /opt/venv /app \
    && /opt/sbom/bin/cyclonedx-py environment --pyproject /build/pyproject.toml --output-reproducible \
        --output-file /build/sbom.cdx.json /opt/venv/bin/python \
    && chmod -R a+rX /app /opt/venv /build

FROM ${BASE} AS page-build
RUN python3 -m pip --version >/dev/null || (apt-get update && apt-get install -y --no-install-recommends python3-pip)
COPY requirements/page.txt /build/requirements/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv --without-pip /opt/venv \
    && python3 -m pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --require-hashes \
        -r /build/requirements/page.txt
COPY LICENSE NOTICE /app/
COPY client /app/client
RUN /opt/venv/bin/python -m compileall -q /app/client && chmod -R a+rX /app /opt/venv

# The common base of all three. The packages need no pip. The official Python images come without the standard library's
# byte code, which a read-only container could not write.
FROM ${RUNTIME} AS runtime
RUN python3 -c 'import shutil, sysconfig as s; from pathlib import Path; [shutil.rmtree(p) for n in ("pip", "setuptools", "wheel") for p in Path(s.get_path("purelib")).glob(n + "*") if p.is_dir()]' \
    && python3 -c 'import compileall as c, re, sysconfig as s; c.compile_dir(s.get_path("stdlib"), quiet=2, rx=re.compile("/(test|tests|idlelib|lib2to3|ensurepip|turtledemo|site-packages|dist-packages)/"))'
# HOME, USER: libraries ask for both, and an arbitrary user id has no entry in /etc/passwd. NVIDIA_*: without them the
# NVIDIA runtime shows no GPU to an image that is not built on NVIDIA's own.
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    USER=service \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /app
STOPSIGNAL SIGTERM

FROM runtime AS page
LABEL org.opencontainers.image.title="gpt2-classifier-page"
# Visitors ask the service at CLASSIFIER_URL only; otherwise the page would send requests to any address in its network.
ENV CLASSIFIER_FIXED=1
COPY --from=page-build /opt/venv /opt/venv
COPY --from=page-build /app /app
EXPOSE 8501
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["/opt/venv/bin/python", "-c", "import urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:8501/_stcore/health', timeout=4)"]
ENTRYPOINT ["/opt/venv/bin/python", "-m", "streamlit", "run", "client/page/app.py", "--server.address=0.0.0.0", "--server.port=8501", "--server.fileWatcherType=none"]

FROM runtime AS train
LABEL org.opencontainers.image.title="gpt2-classifier-train" \
    com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true
ENV SERVICE_HOST=0.0.0.0
COPY --from=train-build /opt/venv /opt/venv
COPY --from=train-build /build/sbom.cdx.json /usr/share/sbom/gpt2-classifier.cdx.json
COPY --from=train-build /app /app
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s CMD ["/opt/venv/bin/python", "/app/entrypoint.py", "health"]
ENTRYPOINT ["/opt/venv/bin/python", "/app/entrypoint.py"]
CMD ["serve"]

FROM runtime AS serve
# SageMaker may choose the port (SAGEMAKER_BIND_TO_PORT) of a container with this label.
LABEL org.opencontainers.image.title="gpt2-classifier" \
    com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true
ENV SERVICE_HOST=0.0.0.0 \
    HF_HUB_OFFLINE=1
COPY --from=serve-build /opt/venv /opt/venv
COPY --from=serve-build /build/sbom.cdx.json /usr/share/sbom/gpt2-classifier.cdx.json
COPY --from=serve-build /app /app
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s CMD ["/opt/venv/bin/python", "/app/entrypoint.py", "health"]
# No USER line: SageMaker expects root. Elsewhere: docker run --user 10001 --read-only --tmpfs /tmp.
# Exec form with the interpreter itself, so that SIGTERM reaches it; SageMaker appends `serve` or `train`.
ENTRYPOINT ["/opt/venv/bin/python", "/app/entrypoint.py"]
CMD ["serve"]
