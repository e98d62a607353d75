# One image for every role: `comment-monitor serve | worker | migrate | cleanup | smoke-test ...`.
# BASE replaces python:3.11-slim if no registry is reachable, or names a mirror's copy of it.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
WORKDIR /build
COPY requirements/build.lock requirements/image.lock requirements/
RUN python3 -m venv tools \
 && tools/bin/python -m pip install --quiet --require-hashes -r requirements/build.lock \
 && python3 -m venv --without-pip /opt/comment-monitor \
 && tools/bin/python -m pip --python /opt/comment-monitor/bin/python install --quiet \
      --require-hashes --only-binary :all: -r requirements/image.lock
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN tools/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist . \
 && tools/bin/python -m pip --python /opt/comment-monitor/bin/python install --quiet --no-deps dist/*.whl \
 # Compiled at build time, because a container's file system is read-only.
 && /opt/comment-monitor/bin/python -m compileall -q /opt/comment-monitor/lib

FROM ${BASE}
# curl: for the health check and for the deployment guide's commands in a pod. Package installers are no longer needed.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends curl \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin \
 && python3 -m pip uninstall --yes --quiet --root-user-action ignore pip setuptools wheel \
 && groupadd --gid 10001 monitor \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin monitor
COPY --from=build /opt/comment-monitor /opt/comment-monitor
COPY deploy/image/health /opt/comment-monitor/bin/health
ENV PATH=/opt/comment-monitor/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080 9090
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s CMD ["/opt/comment-monitor/bin/health"]
CMD ["comment-monitor", "serve", "--host", "0.0.0.0"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Comment Monitoring Pipeline" \
      org.opencontainers.image.description="Every comment once, within seconds, analysed and searchable, never lost." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
