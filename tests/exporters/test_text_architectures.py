"""Networks of texts as transformers has them, by both exporters of torch: the import answers as the file does in ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeloop_exporters.model_files.reading import content_of, read
from edgeloop_exporters.onnx_import import read_onnx
from edgeloop_exporters.token_inputs import with_one_input

transformers = pytest.importorskip("transformers")
WORDS, LENGTH = 120, 20
SIZES = {
    "vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": 70, "num_labels": 3,
}  # fmt: skip
DISTIL = {"vocab_size": WORDS, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 70}
MARKS = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
MORE: dict[str, dict[str, Any]] = {
    "Bert": {}, "DistilBert": DISTIL, "Roberta": {"pad_token_id": 0}, "MPNet": {"pad_token_id": 0}, "Albert": {"embedding_size": 16},
    "Electra": {"embedding_size": 16}, "MobileBert": {"embedding_size": 16, "intra_bottleneck_size": 16},
    "ModernBert": {**MARKS, "global_attn_every_n_layers": 2, "local_attention": 16},
    "DebertaV2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16},
}  # fmt: skip


class Logits(torch.nn.Module):
    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        return self.network(input_ids=input_ids, attention_mask=attention_mask).logits


def exported(name: str, path: Path, dynamo: bool) -> None:
    config = getattr(transformers, f"{name}Config")(**(MORE[name] if name == "DistilBert" else {**SIZES, **MORE[name]}))
    torch.manual_seed(0)
    network = getattr(transformers, f"{name}ForSequenceClassification")(config).eval()
    network.config._attn_implementation = "sdpa" if dynamo else "eager"
    ids = torch.randint(4, WORDS, (2, 12))
    ids[1, 8:] = 0
    names, axes = ["input_ids", "attention_mask"], {0: "batch", 1: "sequence"}
    given: dict[str, Any] = {"dynamo": False, "opset_version": 17, "dynamic_axes": dict.fromkeys(names, axes)}
    if dynamo:
        free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=64)}
        given = {"dynamo": True, "opset_version": 18, "dynamic_shapes": (free, free), "external_data": False, "verbose": False}
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(Logits(network), (ids, (ids != 0).long()), str(path), input_names=names, output_names=["out"], **given)


@pytest.mark.long
@pytest.mark.parametrize("dynamo", [False, True], ids=["script", "dynamo"])
@pytest.mark.parametrize("name", MORE)
def test_a_network_of_transformers_is_imported(name: str, dynamo: bool, tmp_path: Path) -> None:
    exported(name, tmp_path / "net.onnx", dynamo)
    inputs = read(tmp_path / "net.onnx").inputs
    (tmp_path / "one.onnx").write_bytes(with_one_input(content_of(tmp_path / "net.onnx"), inputs, LENGTH, 0, name))
    found = read_onnx(tmp_path / "one.onnx")  # refuses an import that answers differently
    assert [(port.name, port.dtype, port.shape) for port in found.inputs] == [("tokens", "int32", (LENGTH,))]
    assert found.outputs[0].shape in ((2,), (3,))
