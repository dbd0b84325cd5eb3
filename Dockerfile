# syntax=docker/dockerfile:1
#
#   docker build -t hasnot-engine .
#   docker run --rm --memory 2048m --ulimit nofile=20000 --stop-timeout 60 -p 127.0.0.1:3000:3000 -v hasnot-data:/data \
#     -e DATABASE_URL=… -e JWT_SECRET=… -e OPENROUTER_API_KEY=… hasnot-engine
#
# --memory 2048m     the ceiling; the service itself aims at less than 512 MB and alerts at 80 % of `server.memory_limit`
# --ulimit nofile    two descriptors for each stream: 20,000 carry about 9,900 streams; the admission limit follows it
# --stop-timeout 60  SIGTERM lets streams end for 30 s, cuts off who doesn't read 10 s later, flushes for 5 s and returns
#                    leases for 5 s; Docker's default would kill it after 10
# -v …:/data         the journal (usage that the database has not got yet) and the instance's identity. One volume for
#                    each container: a second process on the same folder exits 69. Losing it loses unflushed usage.
# Secrets may come as files: JWT_SECRET_FILE=/run/secrets/jwt and the like. Other commands, beside the server:
#   docker exec CONTAINER hasnot-engine token issue --user alice

ARG RUST_VERSION=1.95

FROM rust:${RUST_VERSION}-slim-bookworm AS build
# make builds jemalloc; the image's C compiler does the rest (SQLite, aws-lc).
RUN apt-get update && apt-get install --yes --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
# Dependencies stay compiled in the cache mounts, which outlive changes to any file, Cargo.lock included. The binary has
# to be copied out of them in the same step.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --package hasnot-engine --bin hasnot-engine \
    && install -D target/release/hasnot-engine /out/hasnot-engine

FROM debian:bookworm-slim
# No packages: root certificates are compiled in, libc and libgcc are there.
RUN useradd --uid 10001 --no-log-init --home-dir /data --no-create-home --shell /usr/sbin/nologin hasnot \
    && install --directory --owner=10001 --group=10001 --mode=0700 /data
COPY --from=build /out/hasnot-engine /usr/local/bin/hasnot-engine
ENV HNE_PROFILE=production \
    LISTEN=0.0.0.0:3000 \
    HNE_DATA_DIR=/data
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 3000
STOPSIGNAL SIGTERM
# Asks the running process, with what the image has. `hasnot-engine doctor` would be the wrong question: it fails while
# the database is away, which the service survives, and restarting it then would only cut its streams.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["bash", "-c", "\
    exec 3<>/dev/tcp/127.0.0.1/${LISTEN##*:} \
    && printf 'GET /healthz HTTP/1.1\\r\\nhost: localhost\\r\\nconnection: close\\r\\n\\r\\n' >&3 \
    && read -r -t 2 status <&3 && [[ $status == 'HTTP/1.1 200 '* ]]"]
ENTRYPOINT ["hasnot-engine"]
CMD ["serve"]
