# The node in an image of its own: the program, the libraries it is linked with, certificates, and nothing else.
#
# Any builder will do, also one that fetches no frontend. Without a registry, `cargo xtask image` makes the base first:
# docs/operations.md. The base is pinned in .github/pins.toml, and has the toolchain of rust-toolchain.toml.
ARG BASE=rust:1.95.0-bookworm

FROM ${BASE} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /src

# The dependencies, by themselves: these layers are built anew when a manifest or the lock changes, and not when a line of
# code does. Cargo wants something of every member of the workspace: empty crates will do, as far as they obey its lints.
COPY Cargo.toml Cargo.lock ./
COPY events/Cargo.toml events/
COPY actors/Cargo.toml actors/
COPY projections/Cargo.toml projections/
COPY gateway/Cargo.toml gateway/
COPY node/Cargo.toml node/
COPY tests/Cargo.toml tests/
COPY xtask/Cargo.toml xtask/
COPY examples/subscriber/Cargo.toml examples/subscriber/
RUN for member in events actors projections gateway node tests; do \
      mkdir -p "$member/src"; echo '//! Empty.' > "$member/src/lib.rs"; \
    done; \
    mkdir -p xtask/src examples/subscriber/src actors/tests tests/it; \
    for program in node/src/main.rs node/build.rs xtask/src/main.rs examples/subscriber/src/main.rs \
        actors/tests/executor_compile.rs tests/it/main.rs; do \
      printf '//! Empty.\n\nfn main() {}\n' > "$program"; \
    done; \
    cargo build --release --locked --package wasmwiz

# The code. Its files are as old as they are in the context: without a new date, cargo would keep what it made of the empty
# crates.
COPY events/ events/
COPY actors/ actors/
COPY projections/ projections/
COPY gateway/ gateway/
COPY node/ node/
COPY examples/ examples/
RUN find events actors projections gateway node -type f -exec touch {} +; \
    cargo build --release --locked --package wasmwiz --bin wasmwiz

# What the last stage is made of. The C library resolves names without further files; the loader knows its folders.
RUN install -D -m 0755 target/release/wasmwiz /image/usr/local/bin/wasmwiz; \
    ldd target/release/wasmwiz | grep -o '/[^ ]*' | xargs -I '{}' cp --dereference --parents '{}' /image; \
    install -D -m 0644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt; \
    echo 'hosts: files dns' > /image/etc/nsswitch.conf; \
    echo 'wasmwiz:x:65532:65532:wasmwiz:/var/lib/wasmwiz:/nonexistent' > /image/etc/passwd; \
    echo 'wasmwiz:x:65532:' > /image/etc/group; \
    mkdir -p /data

FROM scratch
ARG VERSION=unreleased
ARG REVISION=unknown
LABEL org.opencontainers.image.title="WasmWiz" \
      org.opencontainers.image.description="Runs WebAssembly for many tenants, and records every execution" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /image/ /
# The one folder that is written to.
COPY --from=build --chown=65532:65532 /data/ /var/lib/wasmwiz/
# In a container, loopback is nobody else's: it listens everywhere. Metrics and probes have no authentication: publish 8080
# alone.
ENV WASMWIZ_NODE__DATA_DIR=/var/lib/wasmwiz \
    WASMWIZ_LISTEN__API=0.0.0.0:8080 \
    WASMWIZ_LISTEN__ADMIN=0.0.0.0:9090 \
    WASMWIZ_URL=http://127.0.0.1:8080
USER 65532:65532
VOLUME ["/var/lib/wasmwiz"]
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
# The node's own word: its log answers, its views follow, and a module ran. With TLS, set WASMWIZ_URL.
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 CMD ["/usr/local/bin/wasmwiz", "status"]
ENTRYPOINT ["/usr/local/bin/wasmwiz"]
CMD ["node"]
