"""State dicts are read as PyTorch reads them, without unpickling."""

import io
from pathlib import Path

import pytest
import torch
from torch import nn

from torchaug_gen.synthesis.external.weights import fill, read_state_dict

PATH = Path("g.pth")


def saved(values, archive):
    stream = io.BytesIO()
    torch.save(values, stream, _use_new_zipfile_serialization=archive)
    return stream.getvalue()


@pytest.fixture(params=[True, False], ids=["archive", "stream"])
def archive(request):
    return request.param


def values():
    x = torch.arange(24.0).view(4, 6)
    plain = {str(dtype): x.to(dtype) for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.complex64)}
    plain |= {str(dtype): x.to(dtype) for dtype in (torch.int64, torch.int8, torch.uint8, torch.bool)}
    views = {"turned": x.t(), "part": x[1:, 2:4], "flat": x.view(-1), "steps": x[::2, 1::3], "scalar": x[2, 3]}
    return plain | views | {"empty": torch.empty(0, 3), "parameter": nn.Parameter(x), "": x.to(torch.int32)}


def test_tensors_are_those_that_pytorch_reads(archive):
    content = saved(values(), archive)
    expected = torch.load(io.BytesIO(content), weights_only=True)
    read = read_state_dict(content, PATH)
    assert list(read) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(read[name], tensor), name
        assert (read[name].dtype, read[name].stride()) == (tensor.dtype, tensor.stride()), name
    assert read["turned"].data_ptr() == read["flat"].data_ptr()


def test_a_checkpoint_with_optimisers_and_numbers_is_read(archive):
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    checkpoint = {
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": 3,
        "big": 10**30,
        "x": [1.5, ()],
    }
    read = read_state_dict(saved(checkpoint, archive), PATH, key="net")
    assert all(torch.equal(read[name], tensor) for name, tensor in net.state_dict().items())
    with pytest.raises(ValueError, match=r"'net' \(OrderedDict\), .*'step' \(int\)"):
        read_state_dict(saved(checkpoint, archive), PATH)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(2, 2).to_sparse(), "holds more than dense tensors"),
        (torch.ones(2, 2, device="meta"), "holds more than dense tensors"),
        (torch.ones(2, dtype=torch.complex64).conj(), "the conjugate or the negative of what is stored"),
        (torch.ones(2, dtype=torch.complex64).conj().imag, "the conjugate or the negative of what is stored"),
        (torch.ones(1, 2).expand(9, 2), r"a tensor of shape \(9, 2\) is said to be in a storage of 2 values"),
        (4, r"the keys 'a' \(int\)"),
        ({}, r"the keys 'a' \(dict\)"),
    ],
)
def test_other_values_are_refused(value, message, archive):
    with pytest.raises(ValueError, match=message):
        read_state_dict(saved({"a": value}, archive), PATH)


def test_bytes_of_another_machine_are_refused(archive, monkeypatch):
    content = saved({"a": torch.ones(1)}, archive)
    monkeypatch.setattr("sys.byteorder", "big")
    with pytest.raises(ValueError, match="little-endian order, those of this machine in big"):
        read_state_dict(content, PATH)


def test_complex_numbers_are_not_made_real():
    net = nn.Linear(2, 2)
    before = net.weight.clone()
    tensors = {"weight": torch.ones(2, 2, dtype=torch.complex64), "bias": torch.ones(2)}
    with pytest.raises(ValueError, match="Linear has weight: real, the file complex"):
        fill(net, tensors, PATH)
    assert torch.equal(net.weight, before)
    assert fill(net, tensors | {"weight": torch.ones(2, 2).half()}, PATH).weight.eq(1).all()
