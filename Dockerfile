# Serves a model on the CPU:
#   docker build --tag fusetune-serve .
#   docker run --rm --publish 8000:8000 --volume "$PWD/runs/scans:/model:ro" --env FUSETUNE_API_KEY=... fusetune-serve
FROM python:3.11-slim
# Builds of PyTorch without GPU libraries.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
# Beside the server: encoders in ONNX Runtime, pictures in DICOM files, and models of strategy `classifier`. A model whose
# encoder is of timm needs that extra too. Weights are in the model.
RUN pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" -c constraints.txt ".[serve,onnx,dicom,skops]"
RUN useradd --create-home --uid 10001 serve
USER serve
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=3)"]
ENTRYPOINT ["fusetune", "serve"]
CMD ["/model", "--host", "0.0.0.0", "--port", "8000"]
