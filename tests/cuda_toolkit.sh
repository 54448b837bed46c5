# The CUDA compiler and headers from PyPI (125 MB to download, into build/cuda-toolkit) where there is no nvcc, so that the
# kernels compile and run on emulated threads on any machine. Sourced by tests/run.sh; QLORA_CUDA=OFF leaves it out.
if ! command -v nvcc >/dev/null && [ -x /usr/local/cuda/bin/nvcc ]; then
    PATH=$PATH:/usr/local/cuda/bin
fi
if [ "${QLORA_CUDA:-}" != OFF ] && ! command -v nvcc >/dev/null; then
    toolkit=$PWD/build/cuda-toolkit
    if [ ! -e "$toolkit/complete" ]; then
        echo "installing the CUDA compiler and headers into build/cuda-toolkit"
        rm -rf "$toolkit"
        python3 -m pip install --quiet --root-user-action=ignore --no-deps --target "$toolkit" \
            nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96 \
            nvidia-cuda-cccl==13.0.85 || {
            echo "no CUDA compiler: install one and put nvcc on PATH, or set QLORA_CUDA=OFF to leave its tests out" >&2
            exit 1
        }
        ln -s libcudart.so.13 "$toolkit/nvidia/cu13/lib/libcudart.so"
        ln -s lib "$toolkit/nvidia/cu13/lib64"
        touch "$toolkit/complete"
    fi
    PATH=$PATH:$toolkit/nvidia/cu13/bin
fi
export PATH
