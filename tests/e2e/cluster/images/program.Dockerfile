# A single static program.
FROM scratch
COPY root/ /
USER 65534:65534
ENTRYPOINT ["/program"]
