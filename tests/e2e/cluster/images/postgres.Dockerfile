# The parts of the image postgres:17 that the chart uses: variables, folders, the user 999 (or any other), programs.
FROM localhost/debian:1
# hadolint ignore=DL3008
RUN groupadd --gid 999 postgres \
 && useradd --uid 999 --gid postgres --home-dir /var/lib/postgresql --shell /bin/bash postgres \
 && apt-get update \
 && apt-get install -y --no-install-recommends postgresql libnss-wrapper \
 && rm -rf /var/lib/apt/lists/* /var/lib/postgresql/* /etc/postgresql \
 && ln -s /usr/lib/postgresql/* /usr/lib/postgresql/current \
 && ln -s /usr/lib/*/libnss_wrapper.so /usr/lib/libnss_wrapper.so \
 && install -d -o postgres -g postgres -m 1777 /var/lib/postgresql/data /var/run/postgresql
COPY postgres-entrypoint /usr/local/bin/docker-entrypoint.sh
ENV PATH=/usr/local/bin:/usr/lib/postgresql/current/bin:/usr/sbin:/usr/bin:/sbin:/bin PGDATA=/var/lib/postgresql/data LANG=C.UTF-8
USER 999:999
# Fast shutdown: sessions are ended and the data is written.
STOPSIGNAL SIGINT
EXPOSE 5432
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]
