# One image that runs any of the services by its name: docker run motcua dossier
#   docker build --target runtime -t motcua:dev .        the services
#   docker build --target tools -t motcua-tools:dev .    with the mail catcher of development
# Any slim image of this Python serves as the base. A release pins it by digest, which a tag in here cannot
# promise for every registry: --build-arg BASE=python:3.12-slim-bookworm@sha256:…
ARG BASE=python:3.12-slim-bookworm

# What the services need, wheels only: nothing is compiled, so no compiler is installed.
FROM ${BASE} AS dependencies
ARG PIP_INDEX_URL
WORKDIR /build
COPY requirements-runtime.lock ./
RUN python -m venv --without-pip /opt/venv \
 && pip --python /opt/venv/bin/python install --no-cache-dir --no-compile \
      --require-hashes --only-binary :all: -r requirements-runtime.lock \
 && find /opt/venv/lib -depth \( -name '*.pyi' -o -type d -name tests \) -exec rm -rf {} + \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib

# Our own packages, as they are: on the path they need no build backend.
FROM ${BASE} AS code
COPY services /app
COPY graphql/gateway /app/gateway
COPY protos/gen/motcua /app/motcua
RUN python -m compileall -q -j 0 --invalidation-mode unchecked-hash /app

FROM ${BASE} AS mail
ARG PIP_INDEX_URL
WORKDIR /build
COPY requirements.lock ./
RUN sed -n -e '/^aiosmtpd==/,/# via/p' -e '/^atpublic==/,/# via/p' requirements.lock > mail.lock \
 && pip install --no-cache-dir --no-compile --no-deps --require-hashes --only-binary :all: --target /app -r mail.lock
COPY dev/__init__.py dev/mailbox.py dev/options.py /app/dev/
RUN python -m compileall -q --invalidation-mode unchecked-hash /app

# The root file system may be read-only: bytecode is compiled here, also that of the standard library, which the
# base image comes without and each start would compile again; what libraries want to write goes to /tmp.
FROM ${BASE} AS common
RUN groupadd --gid 10001 motcua \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin motcua \
 && rm -rf /usr/local/bin/pip* /usr/local/bin/idle* /usr/local/lib/python3.*/site-packages/* \
      /usr/local/lib/python3.*/ensurepip /usr/local/lib/python3.*/idlelib /usr/local/lib/python3.*/turtledemo \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash -x '/(lib2to3|pydoc_data|test|tkinter)/' \
      /usr/local/lib/python3.*
COPY --from=dependencies /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp
WORKDIR /
USER 10001:10001
ENTRYPOINT ["python", "-m"]
# Kubernetes probes over gRPC and HTTP.
HEALTHCHECK NONE
COPY --from=code /app /app

FROM common AS tools
COPY --from=mail /app /app
LABEL org.opencontainers.image.title="motcua-tools"

FROM common AS runtime
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="motcua" \
      org.opencontainers.image.description="The services of Một Cửa, a province's online public-service centre" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
