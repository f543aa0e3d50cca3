# An environment for training, and this checkout in it. What serves an exported model is another image, which every
# bundle brings along: exports/<task>/Dockerfile.
#
#   docker build -t plumbline . && docker run --rm --gpus all --shm-size 2g plumbline
FROM python:3.11-slim AS environment

# git and make are what the pipeline asks for; a compiler makes programs for a GPU (torch.compile).
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ git make \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 1000 plumbline && install --directory --owner plumbline /workspace

USER plumbline
WORKDIR /workspace
# Below the home, which a devcontainer gives to the user of the host; not in the checkout, which it mounts.
ENV PLUMBLINE_VENV=/home/plumbline/venv
ENV PATH=/home/plumbline/venv/bin:$PATH
COPY --chown=plumbline requirements.lock /home/plumbline/
RUN python -m venv /home/plumbline/venv \
    && pip install --no-cache-dir --disable-pip-version-check -r /home/plumbline/requirements.lock

FROM environment AS project
COPY --chown=plumbline . .
RUN make setup
CMD ["make", "repro"]
