# pred.py, app.py, what they need and the shipped network. deploy/README.md tells how to build and run it.
FROM debian:trixie-slim

LABEL org.opencontainers.image.title="brain-masks" \
      org.opencontainers.image.description="Brain masks of head CT, labels of brain tumours in MRI" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT"

RUN apt-get update && \
    apt-get install --yes --no-install-recommends python3-venv && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* && \
    useradd --uid 1000 --home-dir /data --no-create-home brain && \
    install --directory --owner brain --mode 1777 /data

ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /opt/brain
COPY requirements-predict.txt requirements-page.txt requirements-dicomweb.txt ./
RUN python3 -m venv /opt/venv && \
    pip install --no-cache-dir -r requirements-predict.txt -r requirements-page.txt -r requirements-dicomweb.txt && \
    find /opt/venv -type d -name tests -prune -exec rm -r {} + && \
    pip uninstall --yes pip

# .dockerignore lists what comes in. The sample and the viewer are for the page; it can do without the viewer.
COPY . ./
RUN python synthetic.py --sample results/demo/sample_cta.nii.gz && \
    { test -e page/vendor/niivue.js || python -m page.fetch || echo "going on without the viewer"; } && \
    python -m compileall -q . && \
    chmod -R a+rX .

# From here on nothing but /data is written to, or /tmp where it is a tmpfs.
ENV PYTHONDONTWRITEBYTECODE=1
USER 1000
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --start-period=30s CMD ["python", "/opt/brain/deploy/check_health.py"]
ENTRYPOINT ["/opt/brain/deploy/start.sh"]
CMD ["--help"]
