"""Tails on the hub: Triton's client drives them, and what is not for them is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import urllib3

from commands import command
from edgeloop_contract import inference
from edgeloop_contract.archive import Bundle
from edgeloop_contract.splitting import nibbles, served_name
from hubs import Hub, running_hub
from offloading import first_cut


def test_triton_gets_models_that_it_can_read(built: dict[str, Path], tmp_path: Path) -> None:
    done = command("edgeloop", "export-triton", built["small"], tmp_path / "repository")
    assert done.returncode == 0, done.stderr
    config_class = _triton_config()
    from google.protobuf import text_format

    with Bundle.open(built["small"]) as bundle:
        assert bundle.manifest.split is not None
        names = {served_name("tiny", bundle.sha256, cut.name) for cut in bundle.manifest.split.cuts}
    assert {p.name for p in (tmp_path / "repository").iterdir()} == names
    for folder in (tmp_path / "repository").iterdir():
        config = text_format.Parse((folder / "config.pbtxt").read_text(), config_class())
        assert config.name == folder.name
        session = onnxruntime.InferenceSession(folder / "1" / "model.onnx")
        (given,), (answer,) = session.get_inputs(), session.get_outputs()
        assert config.input[0].name == given.name
        assert list(config.input[0].dims) == given.shape[1:]
        assert config.output[0].name == answer.name
        assert {"tensor(uint8)": 2, "tensor(int16)": 7, "tensor(float)": 11}[given.type] == config.input[0].data_type
    again = command("edgeloop", "export-triton", built["small"], tmp_path / "repository")
    assert again.returncode == 0


def _triton_config() -> Any:
    """tritonclient's own description of the format, without its gRPC client."""
    found = importlib.util.find_spec("tritonclient")
    assert found is not None
    assert found.submodule_search_locations
    path = Path(found.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ModelConfig


def test_the_public_client_drives_a_tail(hub: Hub, built: dict[str, Path]) -> None:
    import tritonclient.http as triton

    split, name, crossing, scores = first_cut(built["small"])
    client = triton.InferenceServerClient(hub.address.removeprefix("http://"))
    headers = {"Authorization": f"Bearer {hub.token}"}
    try:
        assert client.is_server_ready()
        described = client.get_model_metadata(name, headers=headers)
        assert described["inputs"][0]["name"] == split.cuts[1].tensor
        given = triton.InferInput(split.cuts[1].tensor, list(crossing.shape), "UINT8")
        given.set_data_from_numpy(crossing, binary_data=True)
        for compressed in (None, "deflate"):
            answer = client.infer(
                name, [given], headers=headers, request_compression_algorithm=compressed, response_compression_algorithm=compressed
            )
            assert (answer.as_numpy("scores") == scores).all()
    finally:
        client.close()


def ask(hub: Hub, name: str, body: bytes, length: int | None, **headers: str) -> urllib3.BaseHTTPResponse:
    sent = {"Authorization": f"Bearer {hub.token}", **{k.replace("_", "-"): v for k, v in headers.items()}}
    if length is not None:
        sent[inference.HEADER_LENGTH] = str(length)
    return urllib3.request("POST", f"{hub.address}/v2/models/{name}/infer", body=body, headers=sent, timeout=20, retries=False)


def test_a_tail_refuses_what_is_not_for_it(hub: Hub, built: dict[str, Path]) -> None:
    split, name, crossing, scores = first_cut(built["small"])
    tensor = split.cuts[1].tensor
    body, length = inference.encode_request(tensor, crossing, {})
    other = name.replace(name.split(".")[1], "0" * 16)
    wrong_shape = inference.encode_request(tensor, crossing[:, :1], {})
    many = inference.encode_request(tensor, np.repeat(crossing, 5, axis=0), {})
    for why, status, answer in (
        ("another version's digest", 404, ask(hub, other, body, length)),
        ("no such cut", 404, ask(hub, name.replace("cut-1", "cut-9"), body, length)),
        ("a path as a name", 404, ask(hub, "..%2F..%2Fetc", body, length)),
        ("no credential", 401, ask(hub, name, body, length, Authorization="")),
        ("a wrong credential", 401, ask(hub, name, body, length, Authorization="Bearer nobody")),
        ("another shape", 400, ask(hub, name, *wrong_shape)),
        ("more rows than a batch", 400, ask(hub, name, *many)),
        ("another tensor", 400, ask(hub, name, *inference.encode_request("other", crossing, {}))),
        ("no request at all", 400, ask(hub, name, b"\x00" * 100, None)),
        ("not deflated", 400, ask(hub, name, body, length, Content_Encoding="deflate")),
        ("a length that is none", 400, ask(hub, name, body, None, Inference_Header_Content_Length="x")),
        ("no rows of pictures", 400, ask(hub, name, *inference.encode_request(f"{tensor}.4bit", np.zeros((0, 3), np.uint8), {}))),
        (
            "4 bits of another size",
            400,
            ask(hub, name, *inference.encode_request(f"{tensor}.4bit", np.zeros((1, 3), np.uint8), {})),
        ),
    ):
        assert answer.status == status, (why, answer.status, answer.data)
    answer = ask(hub, name, body, length)
    outputs, said = inference.decode_response(answer.data, int(answer.headers[inference.HEADER_LENGTH]))
    assert (outputs["scores"] == scores).all()
    assert said["compute_us"] > 0
    few = np.concatenate([nibbles(crossing[i : i + 1]) for i in range(len(crossing))])
    assert ask(hub, name, *inference.encode_request(f"{tensor}.4bit", few, {})).status == 200
    assert "Traceback" not in hub.log


@pytest.mark.long
def test_who_asks_too_often_is_told_when_to_come_again(built: dict[str, Path], tmp_path: Path) -> None:
    with running_hub(tmp_path, serve=("--set", "tail_burst=3", "--set", "tail_requests_per_second=0.5")) as hub:
        hub.publish(built["small"])
        split, name, crossing, _ = first_cut(built["small"])
        body = inference.encode_request(split.cuts[1].tensor, crossing[:1], {})
        answers = [ask(hub, name, *body) for _ in range(5)]
        assert [a.status for a in answers[:3]] == [200] * 3
        assert answers[-1].status == 429
        assert int(answers[-1].headers["Retry-After"]) >= 1
        with Bundle.open(built["small"]) as bundle:
            target = f"tiny-{bundle.manifest.version}-{bundle.sha256[:8]}.edgeloop"
        hub.edgeloop("withdraw", target)
        with running_hub(tmp_path / "again", keys=False) as other:
            assert ask(other, name, *body).status == 404, "a hub that has not the bundle has not its tail"
