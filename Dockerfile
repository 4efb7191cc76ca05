# The page of docs/serve.md. For the CPU, as it is; for CUDA: --build-arg TORCH_INDEX=https://pypi.org/simple
FROM python:3.12-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

RUN useradd --create-home --uid 1000 studio \
    && install --directory --owner studio --group studio /models /results

WORKDIR /source
COPY pyproject.toml README.md LICENSE CHANGELOG.md requirements.txt constraints.txt ./
# First, because it changes least and is the largest; both from one place, as they only work with each other's builds.
RUN grep --extended-regexp '^torch(vision)?==' constraints.txt >torch.txt \
    && pip install --no-cache-dir --index-url "$TORCH_INDEX" --requirement torch.txt
COPY dynamicrafter dynamicrafter
RUN pip install --no-cache-dir --constraint constraints.txt ".[serve]"

USER 1000
WORKDIR /home/studio
ENV DYNAMICRAFTER_HOME=/models
VOLUME ["/models", "/results"]
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=10s --start-period=90s \
    CMD ["python", "-c", "import urllib.request as web; web.urlopen('http://127.0.0.1:7860/health', timeout=5)"]
ENTRYPOINT ["dynamicrafter"]
CMD ["serve", "--host", "0.0.0.0", "--results", "/results"]
