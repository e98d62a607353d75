# One static program, and nothing else.
FROM scratch
ARG PROGRAM
COPY ${PROGRAM} /program
USER 65534:65534
ENTRYPOINT ["/program"]
