#!/bin/sh
# setup.sh DIR -- a Python environment for bench/peers: PyTorch, transformers, PEFT, gguf, llama.cpp (xllamacpp's
# wheel). Nothing of it is needed to build, test or use the program. The PyTorch wheel loads CUDA libraries even
# where there is no GPU; those that the CUDA toolkit does not bring are installed here. About 2.5 GB.
set -eu
dir=$1
python3 -m venv "$dir"
pip="$dir/bin/pip --disable-pip-version-check -q"
$pip install --no-deps torch nvidia-cufile nvidia-cusparselt-cu13 nvidia-nvshmem-cu13 nvidia-nccl-cu13
$pip install filelock typing_extensions sympy networkx jinja2 fsspec numpy
$pip install --no-deps transformers tokenizers safetensors huggingface_hub peft accelerate
$pip install regex packaging psutil httpx2 hf-xet typer pyyaml tqdm requests gguf xllamacpp
lib=$(find "$(cd "$dir" && pwd)" -path '*/nvidia/*' -name lib -type d | tr '\n' ':')
cat > "$dir/env.sh" <<END
. "$(cd "$dir" && pwd)/bin/activate"
export LD_LIBRARY_PATH="$lib\${LD_LIBRARY_PATH:-}" HF_HUB_OFFLINE=1
END
. "$dir/env.sh"
python -c 'import torch, transformers, peft; print(torch.__version__, transformers.__version__, peft.__version__)'
