# One image for every role: `streamgauge run`, `streamgauge sink`, and MLflow's own server.
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY detectors detectors
COPY stream stream
COPY consumers consumers
COPY streamgauge streamgauge
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir -c constraints.txt '.[postgres]'

FROM python:3.12-slim
COPY --from=build /venv /venv
COPY configs /etc/streamgauge
# Whoever gets into the container is nobody in particular, and owns nothing but the data and the
# detectors' machine code.
RUN useradd --system --uid 10001 --home-dir /data --create-home streamgauge \
    && install --directory --owner streamgauge /var/cache/streamgauge
USER streamgauge
WORKDIR /data
# For any processor of the architecture: the image is not run where it was built.
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 \
    NUMBA_CACHE_DIR=/var/cache/streamgauge NUMBA_CPU_NAME=generic
# So that containers need not compile when they start, nor be able to write.
RUN streamgauge warmup
ENTRYPOINT ["streamgauge"]
CMD ["--help"]
