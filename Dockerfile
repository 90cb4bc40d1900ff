# NVIDIA's TensorRT container with what speaking and serving take. docs/tensorrt.md says how it is built and run.
ARG RELEASE=25.10
FROM nvcr.io/nvidia/tensorrt:${RELEASE}-py3 AS classic
# The container's Python is Ubuntu's, which pip must be told to install into.
ENV PIP_BREAK_SYSTEM_PACKAGES=1
WORKDIR /workspace/speak
COPY . .
RUN bash scripts/install_prerequisites.sh serve

FROM classic AS server
EXPOSE 8000
ENTRYPOINT ["python3", "scripts/http_server.py"]
CMD ["--host", "0.0.0.0"]
