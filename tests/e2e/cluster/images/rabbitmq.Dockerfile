# The parts of the image rabbitmq:4 that the chart uses: variables, folders (including conf.d), the user 999 (or any other).
FROM localhost/debian:1
# hadolint ignore=DL3008
RUN groupadd --gid 999 rabbitmq \
 && useradd --uid 999 --gid rabbitmq --home-dir /var/lib/rabbitmq --shell /bin/bash rabbitmq \
 && apt-get update \
 && apt-get install -y --no-install-recommends rabbitmq-server \
 && rm -rf /var/lib/apt/lists/* /var/lib/rabbitmq /var/log/rabbitmq \
 && install -d -o rabbitmq -g rabbitmq -m 777 /var/lib/rabbitmq /var/log/rabbitmq \
 && install -d /etc/rabbitmq/conf.d \
 && echo '[rabbitmq_prometheus].' >/etc/rabbitmq/enabled_plugins
# Debian's own start script needs root; this script runs as any user. HOME contains the cookie.
ENV PATH=/usr/lib/rabbitmq/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/var/lib/rabbitmq RABBITMQ_LOGS=- LANG=C.UTF-8
USER 999:999
EXPOSE 5672 15692
CMD ["rabbitmq-server"]
