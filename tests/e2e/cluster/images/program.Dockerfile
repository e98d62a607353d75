# One static program, and nothing else.
FROM scratch
COPY root/ /
USER 65534:65534
ENTRYPOINT ["/program"]
