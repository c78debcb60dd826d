"""Networks as graphs: the same numbers from torch.export and from onnxruntime, for any number of images."""

import pytest
import torch

from cunet import export, models, sampling
from cunet.diffusion import Diffusion
from cunet.errors import InputError

TOLERANCE = 1e-4  # the promise; float32 sums in another order differ by about 1e-5 of an output of size 1


@pytest.fixture(scope="module", params=["cunet", "unet"])
def network(request):
    torch.manual_seed(0)
    return models.build(request.param, "smoke", channels=1).eval()


@pytest.fixture(scope="module")
def program(network):
    network.train()
    made = export.to_program(network)
    assert network.training, "exporting leaves the mode as it was"
    network.eval()
    return made


@pytest.fixture(scope="module")
def file(network, program, tmp_path_factory):
    pytest.importorskip("onnxruntime")
    return export.to_onnx(network, tmp_path_factory.mktemp("onnx") / f"{network.name}.onnx", program)


def images(number: int):
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(number, 1, 16, 16, generator=generator)
    return x, torch.randint(0, 1000, (number,), generator=generator)


@pytest.mark.parametrize("number", [1, 3])
def test_onnxruntime_gives_what_the_network_gives(network, file, number):
    x, t = images(number)
    with torch.no_grad():
        expected = network(x, t)
        assert expected.std() > 1e-2, "or nothing is compared"
        torch.testing.assert_close(export.OnnxNetwork(file)(x, t), expected, atol=TOLERANCE, rtol=0)


def test_a_program_survives_a_file_and_takes_any_number_of_images(network, program, tmp_path):
    torch.export.save(program, tmp_path / "network.pt2")
    again = torch.export.load(tmp_path / "network.pt2").module()
    for number in (1, 3):
        x, t = images(number)
        with torch.no_grad():
            torch.testing.assert_close(again(x, t), network(x, t), atol=TOLERANCE, rtol=0)


def test_an_onnx_file_stands_in_for_its_network_in_sampling(network, file):
    stand_in = export.OnnxNetwork(file, threads=1)
    assert (stand_in.name, stand_in.channels, stand_in.image_size) == (network.name, 1, 16)
    made = [sampling.sample(model, 2, Diffusion(), "ddim", 3, seed=1) for model in (network, stand_in)]
    torch.testing.assert_close(*made, atol=TOLERANCE, rtol=0)


def test_what_does_not_fit_is_refused(file, tmp_path, monkeypatch):
    stand_in = export.OnnxNetwork(file)
    with pytest.raises(InputError, match=r"\(2, 3, 16, 16\)"):
        stand_in(torch.zeros(2, 3, 16, 16), 5)
    with pytest.raises(InputError, match="no file"):
        export.OnnxNetwork(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(InputError, match="damaged"):
        export.OnnxNetwork(tmp_path / "text.onnx")
    with monkeypatch.context() as patch, pytest.raises(InputError, match="is a file or read-only"):
        patch.setattr(export, "to_program", lambda network: pytest.fail("it exported first"))
        export.to_onnx(models.build("cunet", "smoke", 1), tmp_path / "text.onnx" / "cunet.onnx")


def test_without_the_packages_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(export, "PACKAGES", ("onnx", "a_package_that_is_not_there"))
    with pytest.raises(InputError, match="pip install 'cunet\\[onnx\\]'"):
        export.to_onnx(models.build("cunet", "smoke", 1), tmp_path / "cunet.onnx")


def test_the_largest_difference_and_the_times_of_both_are_told(network, program, file):
    assert export.gap(network, network) == 0 < export.gap(network, lambda x, t: network(x, t) + 1)
    assert export.gap(network, program.module()) < TOLERANCE
    timed = export.timed(network, export.OnnxNetwork(file), 2, rounds=2)
    assert timed.ratios["torch"] == 1 and timed.ratios["onnxruntime"] > 0
