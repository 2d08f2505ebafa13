# One image for every role: `streamgauge run`, `streamgauge sink`, and MLflow's own server.
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY detectors detectors
COPY stream stream
COPY consumers consumers
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir -c constraints.txt '.[postgres]'

FROM python:3.12-slim
COPY --from=build /venv /venv
COPY configs /etc/streamgauge
# Whoever gets into the container is nobody in particular, and owns nothing but the data.
RUN useradd --system --uid 10001 --home-dir /data --create-home streamgauge
USER streamgauge
WORKDIR /data
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
ENTRYPOINT ["streamgauge"]
CMD ["--help"]
