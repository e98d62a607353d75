# The parts of the image redis:7 that the chart uses: the folder, the user 999 (or any other), arguments as the command.
FROM localhost/debian:1
# hadolint ignore=DL3008
RUN groupadd --gid 999 redis \
 && useradd --uid 999 --gid redis --home-dir /data --shell /usr/sbin/nologin redis \
 && apt-get update \
 && apt-get install -y --no-install-recommends redis-server redis-tools \
 && rm -rf /var/lib/apt/lists/* \
 && install -d -o redis -g redis -m 777 /data
COPY redis-entrypoint /usr/local/bin/docker-entrypoint.sh
WORKDIR /data
USER 999:999
EXPOSE 6379
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["redis-server"]
