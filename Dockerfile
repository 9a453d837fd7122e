# The worker and the server: docker build -t tickwatch:0.1.0 . && docker run --rm tickwatch:0.1.0 --help
# With the extras fast, signing and traces:   docker build -t tickwatch:0.1.0 --build-arg REQUIREMENTS=requirements-extras.txt .
# Training, with PyTorch:    docker build -t tickwatch-training:0.1.0 --target training .
FROM python:3.13-slim AS packages

ARG REQUIREMENTS=requirements.txt
WORKDIR /src
COPY ${REQUIREMENTS} ./
RUN python -m venv --without-pip /opt/tickwatch \
    && pip --python /opt/tickwatch install --no-cache-dir --require-hashes --only-binary :all: -r ${REQUIREMENTS}

FROM packages AS wheel
COPY requirements-build.txt ./
RUN pip install --no-cache-dir --require-hashes --only-binary :all: --target /opt/hatchling -r requirements-build.txt
COPY LICENSE README.md pyproject.toml ./
COPY models models
COPY training training
COPY service service
RUN PYTHONPATH=/opt/hatchling PATH=/opt/hatchling/bin:$PATH \
        pip wheel --no-cache-dir --no-index --no-deps --no-build-isolation --wheel-dir /dist .

FROM packages AS training-build
COPY requirements-training.txt ./
RUN pip --python /opt/tickwatch install --no-cache-dir --require-hashes --only-binary :all: -r requirements-training.txt
COPY --from=wheel /dist /dist
RUN pip --python /opt/tickwatch install --no-cache-dir --no-index --no-deps /dist/tickwatch-*.whl

FROM packages AS worker-build
# What no command of the worker imports: tests, sources, headers, tools for other models, network clients of Arrow, and the copy of
# onnxruntime for other languages than Python. A quarter of it.
WORKDIR /opt/tickwatch/lib/python3.13/site-packages
RUN find . -depth -type d -name tests -not -path './numpy/testing/*' -exec rm -r {} + \
    && rm -r numba/cuda numba/pycc numpy/f2py onnx/backend onnx/reference \
        onnxruntime/tools onnxruntime/transformers onnxruntime/quantization onnxruntime/datasets onnxruntime/capi/libonnxruntime.so.* \
        pyarrow/include pyarrow/src pyarrow/libarrow_python.so pyarrow/libarrow_python.so.*.*.* \
    && find pyarrow \( -name '*_flight*' -o -name '*_s3*' -o -name '_s3fs*' \) -delete \
    && find . \( -name '*.py[ix]' -o -name '*.px[di]' -o -name '*.[ch]' -o -name '*.cc' -o -name '*.cpp' \) -delete
# What only a debugger reads: 46 MB. A build that reaches no mirror of Debian keeps it.
# hadolint ignore=DL3008
RUN if apt-get update && apt-get install --yes --no-install-recommends binutils; then \
        rm -r /var/lib/apt/lists/* && strip --strip-unneeded uvloop/*.so httptools/parser/*.so fastavro/*.so llvmlite/binding/*.so; \
    fi
COPY --from=wheel /dist /dist
RUN pip --python /opt/tickwatch install --no-cache-dir --no-index --no-deps /dist/tickwatch-*.whl
# Seconds of a simulated market show that what is left works, and leave the kernels compiled, for any CPU of this architecture.
WORKDIR /tmp/first-run
RUN NUMBA_CPU_NAME=generic NUMBA_CACHE_DIR=/var/cache/tickwatch /opt/tickwatch/bin/tickwatch run --duration 2

FROM python:3.13-slim AS training
LABEL org.opencontainers.image.title="tickwatch-training" \
      org.opencontainers.image.description="Trains, evaluates and publishes models of tickwatch." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --no-log-init --uid 10001 --no-create-home --shell /usr/sbin/nologin tickwatch
COPY --from=training-build /opt/tickwatch /opt/tickwatch
ENV PATH=/opt/tickwatch/bin:$PATH \
    PYTHONUNBUFFERED=1
USER 10001
WORKDIR /tmp
ENTRYPOINT ["tickwatch"]
CMD ["train", "--help"]

FROM python:3.13-slim
LABEL org.opencontainers.image.title="tickwatch" \
      org.opencontainers.image.description="Says, within milliseconds, which live ticks are not normal, and why." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --no-log-init --uid 10001 --no-create-home --shell /usr/sbin/nologin tickwatch \
    && install --directory --owner tickwatch /var/lib/tickwatch
COPY --from=worker-build /opt/tickwatch /opt/tickwatch
COPY --from=worker-build /var/cache/tickwatch /var/cache/tickwatch
# The kernels that came along are found only by the name of the CPU that they were compiled for.
ENV PATH=/opt/tickwatch/bin:$PATH \
    NUMBA_CACHE_DIR=/var/cache/tickwatch \
    NUMBA_CPU_NAME=generic \
    OPENBLAS_NUM_THREADS=1 \
    MALLOC_ARENA_MAX=2 \
    PYTHONUNBUFFERED=1 \
    TICKWATCH_HOST=0.0.0.0 \
    TICKWATCH_PORT=9464
USER 10001
WORKDIR /var/lib/tickwatch
EXPOSE 9464
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"TICKWATCH_PORT\"]}/healthz', timeout=2)"]
# A signal that comes before Python listens waits until it does; to the first process of a container it would be lost.
ENTRYPOINT ["env", "--block-signal=TERM", "tickwatch"]
CMD ["worker"]
