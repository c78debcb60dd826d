"""Our networks inside the real diffusers pipelines, and through their save and load."""

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler

from cunet import models
from cunet.diffusion import Diffusion
from cunet.errors import InputError
from cunet.pipelines import PipelineModel


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return models.build("cunet", "smoke", channels=3).eval()


@pytest.mark.parametrize(
    ("pipeline", "scheduler"), [(DDPMPipeline, DDPMScheduler), (DDIMPipeline, DDIMScheduler)]
)
def test_runs_in_the_pipelines(network, pipeline, scheduler):
    pipe = pipeline(PipelineModel.wrap(network), scheduler(**Diffusion().scheduler_config()))
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    images = pipe(batch_size=2, num_inference_steps=3, generator=generator, output_type="np").images
    assert images.shape == (2, 16, 16, 3) and np.isfinite(images).all() and images.std() > 0


def test_saved_and_loaded_it_predicts_the_same(network, tmp_path):
    model = PipelineModel.wrap(network)
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    again = PipelineModel.from_pretrained(tmp_path).eval()
    image = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(again(image, 5).sample, network(image, 5))
        assert torch.equal(again(image, 5, return_dict=False)[0], network(image, 5))


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="Did you mean 'cunet'"):
        PipelineModel("cunett")
