#!/bin/sh
# setup.sh DIR -- a Python environment for bench/peers: PyTorch, transformers, PEFT, gguf, and llama.cpp, compiled here
# for this very processor: the wheels that can be had are for older ones. Nothing of it is needed to build, test or use
# the program. The PyTorch wheel loads CUDA libraries even where there is no GPU; those that the CUDA toolkit does not
# bring are installed here. About 2.7 GB; llama.cpp takes a C++ compiler and some ten minutes of one core.
# pip says that torch and huggingface-hub lack packages: those are left out on purpose. What counts are the last two
# lines, which are printed only when everything can be imported.
set -eu
dir=$1
python3 -m venv "$dir"
pip="$dir/bin/pip --disable-pip-version-check -q"
$pip install --no-deps torch nvidia-cufile nvidia-cusparselt-cu13 nvidia-nvshmem-cu13 nvidia-nccl-cu13
$pip install filelock typing_extensions sympy networkx jinja2 fsspec numpy
$pip install --no-deps transformers tokenizers safetensors huggingface_hub peft accelerate
$pip install regex packaging psutil httpx2 hf-xet typer pyyaml tqdm requests gguf diskcache
CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF" $pip install --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36
lib=$(find "$(cd "$dir" && pwd)" -path '*/nvidia/*' -name lib -type d | tr '\n' ':')
cat > "$dir/env.sh" <<END
. "$(cd "$dir" && pwd)/bin/activate"
export LD_LIBRARY_PATH="$lib\${LD_LIBRARY_PATH:-}" HF_HUB_OFFLINE=1
END
. "$dir/env.sh"
python -c 'import torch, transformers, peft; print(torch.__version__, transformers.__version__, peft.__version__)'
python -c 'import llama_cpp; print(llama_cpp.__version__, llama_cpp.llama_print_system_info().decode())'
