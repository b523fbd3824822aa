# MedCoDi in a container: CPU or CUDA from one file. docs/OFFLINE.md says how to build it without a network, too.
#
#   docker build --tag medcodi --build-arg TORCH_INDEX=URL-OF-THE-CPU-BUILDS .      CPU: PyTorch's installation page names the URL
#   docker build --tag medcodi:cuda .                                               CUDA: the libraries come with PyTorch
#   docker run --network none --user "$(id -u):$(id -g)" --volume "$PWD:/data" medcodi generate --target report --out first
#
#   docker run --publish 127.0.0.1:8080:8080 medcodi serve --host 0.0.0.0          the page; its address, with a token, is printed
#
# Every step is in tools/container_steps.sh, which a test runs. At run time it needs no network, no rights, and writes to /data alone.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim AS build
ARG TORCH_INDEX=
ARG EXTRAS=eval,dicom,turing,web
WORKDIR /source
COPY . .
RUN EXTRAS="${EXTRAS}" TORCH_INDEX="${TORCH_INDEX}" tools/container_steps.sh install /opt/medcodi

FROM python:${PYTHON}-slim
COPY --from=build /opt/medcodi /opt/medcodi
COPY tools/container_steps.sh /opt/medcodi/bin/container_steps.sh
RUN /opt/medcodi/bin/container_steps.sh user medcodi
# PyTorch wants a name of the user, which one of docker run --user may not have.
# Nothing is fetched; the card of the host is visible where the runtime offers one (docker run --gpus all).
ENV PATH=/opt/medcodi/bin:$PATH USER=medcodi \
    HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_DATASETS_OFFLINE=1 \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001
WORKDIR /data
# Of medcodi serve.
EXPOSE 8080
HEALTHCHECK --interval=10m --timeout=2m --start-period=1m --retries=2 CMD ["medcodi", "doctor"]
ENTRYPOINT ["medcodi"]
CMD ["--help"]
