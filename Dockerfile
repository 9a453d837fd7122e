# The worker: docker build -t tickwatch . && docker run --rm tickwatch worker --help
FROM python:3.13-slim AS build

WORKDIR /src
COPY requirements.txt requirements-build.txt ./
RUN python -m venv /opt/tickwatch \
    && /opt/tickwatch/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements.txt \
    && pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements-build.txt
COPY LICENSE README.md pyproject.toml ./
COPY models models
COPY training training
COPY service service
RUN pip wheel --no-cache-dir --no-index --no-deps --no-build-isolation --wheel-dir /dist . \
    && /opt/tickwatch/bin/pip install --no-cache-dir --no-index --no-deps /dist/tickwatch-*.whl

# Two seconds of a simulated market show that the image works, and leave the kernels compiled for this kind of CPU.
WORKDIR /tmp/first-run
RUN NUMBA_CACHE_DIR=/var/cache/tickwatch /opt/tickwatch/bin/tickwatch run --duration 2

FROM python:3.13-slim

LABEL org.opencontainers.image.title="tickwatch" \
      org.opencontainers.image.description="Says, within milliseconds, which live ticks are not normal, and why." \
      org.opencontainers.image.licenses="Apache-2.0"

RUN useradd --system --uid 10001 --no-create-home tickwatch \
    && install --directory --owner tickwatch /var/lib/tickwatch
COPY --from=build /opt/tickwatch /opt/tickwatch
COPY --from=build --chown=tickwatch /var/cache/tickwatch /var/cache/tickwatch

ENV PATH=/opt/tickwatch/bin:$PATH \
    NUMBA_CACHE_DIR=/var/cache/tickwatch \
    PYTHONUNBUFFERED=1 \
    TICKWATCH_HOST=0.0.0.0

USER 10001
WORKDIR /var/lib/tickwatch
EXPOSE 9464
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9464/healthz', timeout=2)"]
ENTRYPOINT ["tickwatch"]
CMD ["worker"]
