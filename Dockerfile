# docker build -t forebay . && docker run -p 6379:6379 forebay
#
# Plain Dockerfile syntax only, so that every builder understands it. What the container serves, and which environment
# variables change it, stands in container/forebay.toml.

FROM python:3.11-slim-bookworm AS build
# The C compiler stays in this stage.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY protocol ./protocol
COPY eviction ./eviction
COPY persistence ./persistence
COPY server ./server
# The wheel first, then the wheel into an environment of its own: what runs is what would be published.
RUN HATCH_BUILD_HOOKS_ENABLE=true python -m pip wheel --no-cache-dir --disable-pip-version-check --no-deps --wheel-dir /wheels . \
    && python -m venv /opt/forebay \
    && /opt/forebay/bin/python -m pip install --no-cache-dir --disable-pip-version-check /wheels/*.whl \
    && /opt/forebay/bin/python -m pip uninstall --yes pip setuptools \
    && /opt/forebay/bin/forebay version | grep --quiet --line-regexp compiled


FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="Forebay" \
      org.opencontainers.image.description="A cache server that speaks the Redis protocol and knows the database behind it" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/forebay /opt/forebay
COPY container/forebay.toml /etc/forebay/forebay.toml
COPY container/healthcheck.py /opt/forebay/healthcheck.py
# The working directory belongs to the user that the server runs as; a volume takes over its owner.
RUN mkdir -p /var/lib/forebay && chown 10001:10001 /var/lib/forebay
# PYTHONSAFEPATH: nothing in the working directory (or a volume) is importable.
ENV PATH=/opt/forebay/bin:$PATH \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /var/lib/forebay
VOLUME ["/var/lib/forebay"]
EXPOSE 6379 9121
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 CMD ["python", "/opt/forebay/healthcheck.py"]
ENTRYPOINT ["forebay"]
CMD ["serve", "-c", "/etc/forebay/forebay.toml"]
