# export-gateway as an image: the binary, the C library it was tested with, the roots of trust, and nothing else.
#
#   docker build -t export-gateway .
#   docker run --read-only --cap-drop=ALL -p 8080:8080 \
#       -v ./config:/etc/export-gateway:ro -v gateway-state:/var/lib/export-gateway export-gateway
#
# Mount the *folder* of gateway.toml, never the file alone: an edit that replaces the file is not seen then.

ARG RUST_IMAGE=rust:1.95-slim-bookworm
FROM ${RUST_IMAGE} AS build

# jemalloc's build wants make.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make=4.3-4.1 \
    && rm -rf /var/lib/apt/lists/*

# The same source makes the same binary wherever it is built.
ARG SOURCE_DATE_EPOCH=0
ENV CARGO_INCREMENTAL=0 \
    SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} \
    RUSTFLAGS="--remap-path-prefix=/src=export-gateway --remap-path-prefix=/usr/local/cargo=cargo"
WORKDIR /src

# Dependencies are a layer of their own, which an edit of the source leaves as it is.
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
RUN mkdir src \
    && echo 'fn main() {}' >src/main.rs \
    && touch src/lib.rs \
    && cargo build --release --locked \
    && rm -r src

# A profile (`make release` leaves one) makes the binary faster:
#   docker build --build-arg PGO_PROFILE=export-gateway.profdata .
# It must come from the toolchain of RUST_IMAGE. Left out: a plain release build. (Cargo.toml is there so that
# there is always something to copy.)
ARG PGO_PROFILE=
COPY src src
COPY Cargo.toml *.profdata ./
RUN if [ -n "${PGO_PROFILE}" ]; then \
        export RUSTFLAGS="${RUSTFLAGS} -Cprofile-use=/src/${PGO_PROFILE}"; \
    fi \
    && touch src/main.rs src/lib.rs \
    && cargo build --release --locked \
    && strip --strip-all -o /export-gateway target/release/export-gateway

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# What the binary is linked with, where its loader looks for it; names are looked up in hosts, then in DNS.
RUN mkdir -p /rootfs/lib64 /rootfs/usr/bin /rootfs/etc /rootfs/tmp \
        /rootfs/var/lib/export-gateway /rootfs/etc/export-gateway \
    && install -m 755 /export-gateway /rootfs/usr/bin/export-gateway \
    && ldd /export-gateway | grep -o '/[^ ]*' | while read -r library; do \
        mkdir -p "/rootfs$(dirname "${library}")" && cp -L "${library}" "/rootfs${library}"; \
    done \
    && echo 'hosts: files dns' >/rootfs/etc/nsswitch.conf \
    && echo 'gateway:x:65532:65532::/var/lib/export-gateway:/sbin/nologin' >/rootfs/etc/passwd \
    && echo 'gateway:x:65532:' >/rootfs/etc/group \
    && chown 65532:65532 /rootfs/var/lib/export-gateway

FROM scratch AS gateway
COPY --from=build /rootfs /
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY deploy/container/gateway.toml /etc/export-gateway/gateway.toml

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="export-gateway" \
      org.opencontainers.image.description="A reverse proxy that moves video exports from one backend to another, job by job" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

WORKDIR /var/lib/export-gateway
ENV EXPORT_GATEWAY_CONFIG=/etc/export-gateway/gateway.toml \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=4s --start-period=10s --retries=3 CMD ["/usr/bin/export-gateway", "healthcheck"]
ENTRYPOINT ["/usr/bin/export-gateway"]

# For Fly.io, whose volumes belong to root; the machine is a VM with this one process (build-target in deploy/fly/fly.toml).
FROM gateway AS fly
# hadolint ignore=DL3002
USER 0:0

FROM gateway
USER 65532:65532
