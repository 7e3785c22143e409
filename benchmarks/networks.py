"""Architectures of timm and torchvision, as ONNX files with random weights, through import and int8 of both runtimes.

What is counted is which networks come through, how far each runtime is from torch's integers, and what is left in float. Accuracy
is not: nobody trained them. `--make FOLDER` writes the files, where timm and torchvision are installed; `--models FOLDER` says
where they are. With --quick the smallest eight.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness import NotRun, Row, each, main

TIMM = [
    "mobilenetv2_100", "mobilenetv3_small_050", "mobilenetv3_large_100", "mobilenetv4_conv_small", "mnasnet_small",
    "semnasnet_100", "lcnet_050", "tinynet_e", "efficientnet_b0", "efficientnet_lite0", "tf_efficientnetv2_b0", "hardcorenas_a",
    "rexnet_100", "ghostnet_100", "repghostnet_050", "regnety_002", "resnet18", "resnext26ts", "legacy_seresnet18",
    "res2net50_14w_8s", "densenet121", "dla34", "hrnet_w18_small", "inception_v3", "xception41", "ese_vovnet19b_dw",
    "cspresnet50", "cspdarknet53", "nfnet_l0", "repvgg_a0", "mobileone_s0", "fastvit_t8", "starnet_s1", "poolformer_s12",
    "convnext_atto", "convnextv2_atto", "edgenext_xx_small", "mobilevit_xxs", "mobilevitv2_050", "efficientformer_l1",
    "tiny_vit_5m_224", "levit_128s", "deit_tiny_patch16_224", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224",
    "mixer_s32_224",
]  # fmt: skip
TORCHVISION = ("squeezenet1_1", "shufflenet_v2_x0_5", "googlenet")
WHOLE = (
    "vit",
    "deit",
    "swin",
    "mixer",
    "levit",
    "tiny_vit",
    "efficientformer",
    "mobilevit",
    "inception",
)
SIDE, QUICK, FITTED, HELD = 160, 8, 16, 8
FAR = 0.12  # of the scores' range: rounding, where weights are random and deep networks amplify it


def option(name: str) -> str:
    if name not in sys.argv:
        return ""
    value = sys.argv.pop(sys.argv.index(name) + 1)
    sys.argv.remove(name)
    return value


MAKE, FOLDER = option("--make"), option("--models")


def measure(quick: bool) -> Iterator[Row]:
    def networks(_: bool) -> Iterator[Row]:
        files = sorted(Path(FOLDER).glob("*.onnx"), key=lambda path: path.stat().st_size) if FOLDER else []
        if not files:
            raise NotRun("give a folder of ONNX files with --models; --make FOLDER writes them where timm and torchvision are")
        through = 0
        chosen = files[:QUICK] if quick else files
        for path in chosen:
            row, passed = compared(path)
            through += passed
            yield row
        yield Row(f"{len(chosen)} networks through int8 in both runtimes", through, "", None, None, "all", through == len(chosen))

    yield from each(quick, networks)


def compared(path: Path) -> tuple[Row, bool]:
    """How far, at most, a runtime is from torch's integers, in 255ths of the scores' range; what is float in the name."""
    from edgeloop.quantizing import _outputs, _splits
    from edgeloop_contract.errors import EdgeloopError
    from edgeloop_contract.manifest import Precision, TensorSpec, Variant
    from edgeloop_exporters import kernels
    from edgeloop_exporters.convert import written
    from edgeloop_exporters.file_check import _scores
    from edgeloop_exporters.normalization import InputNormalization
    from edgeloop_pipeline.networks.imported import ImportedNetwork, open_import
    from edgeloop_pipeline.networks.saved_network import Saved, Structure
    from edgeloop_pipeline.quantization import quantized_graph

    try:
        found = open_import(path)
        shape = found.inputs[0].shape
        network = ImportedNetwork(found.network, "channels_first", shape, {found.outputs[0].name: 0}, True)
        samples = np.cumsum(np.random.default_rng(0).normal(size=(FITTED + HELD, *shape)), -1).astype(np.float32) * 0.2
        values = np.ascontiguousarray(np.moveaxis(samples, 1, -1))
        saved = Saved(network, Structure("", {}, {}, InputNormalization("float32", (0.0,), (1.0,))))
        splits = _splits(values[:FITTED])
        graph = quantized_graph.prepare(saved, splits)
        quantized_graph.calibrate(graph, values[:FITTED])
        held = values[FITTED:]
        wanted, worst, left = _outputs(graph.module, saved.normalization, held), 0.0, []
        for runtime in ("onnx", "tflite"):
            content = written(runtime, graph.module, saved.normalization, splits.shape, True)  # type: ignore[arg-type]
            scores = _scores(content, runtime, graph.module, saved.normalization, held, True)  # type: ignore[arg-type]
            reach = max(float(np.ptp(wanted)), 1e-6)
            worst = max(worst, float(np.abs(scores.reshape(wanted.shape) - wanted).max()) / reach)
            spec: Any = TensorSpec(dtype="float32", shape=list(splits.shape))
            variant = Variant(
                name=runtime, runtime=runtime, precision=Precision.INT8, file="f", inputs=[spec], outputs=[spec]  # type: ignore[arg-type]
            )  # fmt: skip
            counted = kernels.count(variant, content)
            left.append(f"{sum(counted.floating.values()) - 1} of {sum((*counted.integer.values(), *counted.floating.values()))}")
        name = f"{path.stem}: off by at most; float operations in ONNX, TFLite: {', '.join(left)}"
        return Row(name, round(255 * worst, 1), "/255", None, None, f"≤ {255 * FAR:.0f}", worst <= FAR), worst <= FAR
    except EdgeloopError as error:
        return Row(f"{path.stem}: refused: {str(error)[:150]}", None, "", None, None, "", False), False


def make(folder: Path) -> None:
    """Random weights, and statistics of BatchNorm from a few random pictures, so that the numbers are of the usual size."""
    import timm
    import torch
    import torchvision

    folder.mkdir(parents=True, exist_ok=True)
    for name in (*TIMM, *TORCHVISION):
        torch.manual_seed(0)
        if name in TIMM:
            network = timm.create_model(name, pretrained=False, num_classes=10)
            side = network.default_cfg["input_size"][-1] if name.startswith(WHOLE) else SIDE
        else:
            words = {"aux_logits": False} if name == "googlenet" else {}
            network, side = torchvision.models.get_model(name, weights=None, num_classes=10, **words), SIDE
        network.train()
        with torch.no_grad():
            for layer in network.modules():
                if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
                    layer.momentum = None
                    layer.reset_running_stats()
            for _ in range(3):
                network(torch.randn(8, 3, side, side).cumsum(-1) * 0.2)
        torch.onnx.export(
            network.eval(), (torch.randn(2, 3, side, side),), str(folder / f"{name}.onnx"), dynamo=False, opset_version=17,
            input_names=["input"], output_names=["scores"], dynamic_axes={"input": {0: "n"}},
        )  # fmt: skip


if __name__ == "__main__":
    if MAKE:
        make(Path(MAKE))
    else:
        main(measure)
