"""Our networks inside the real diffusers pipelines, and through their save and load."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler

from cunet import models, sampling
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


def test_a_pipeline_draws_the_images_that_our_sampler_draws(network):
    """The same noise through DDIMPipeline and through `cunet.sampling`: the same pictures, to rounding."""
    diffusion = Diffusion()
    scheduler = DDIMScheduler(**diffusion.scheduler_config(), timestep_spacing="trailing")
    pipe = DDIMPipeline(PipelineModel.wrap(network), scheduler)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    options = dict(num_inference_steps=5, use_clipped_model_output=True, output_type="np")
    theirs = pipe(batch_size=2, generator=generator, **options).images
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    for step in sampling.walk(network, x, diffusion, sampling.SPACINGS["trailing"](diffusion, 5), "ddim"):
        x = step.x
    ours = (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(theirs, ours, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "UniPCMultistepScheduler",
        "HeunDiscreteScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "PNDMScheduler",
        "DEISMultistepScheduler",
    ],
)
def test_any_scheduler_drives_it_by_the_library_s_own_loop(network, name):
    """A network that answers the clean picture exactly comes out of every scheduler as that picture."""
    diffusion, model = Diffusion("linear", prediction_type="epsilon"), PipelineModel.wrap(network)
    clean = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
    scheduler = getattr(diffusers, name)(**diffusion.scheduler_config())
    scheduler.set_timesteps(20)
    x = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)) * scheduler.init_noise_sigma

    class Oracle(torch.nn.Module):
        def forward(self, sample, timestep):
            assert isinstance(network(sample, timestep.long()), torch.Tensor)  # ours takes what it is given
            return diffusion.noise_between(clean, sample, timestep.round().long())

    model.network = Oracle()
    for t in scheduler.timesteps:
        with torch.no_grad():
            answer = model(scheduler.scale_model_input(x, t), t).sample
        x = scheduler.step(answer, t, x).prev_sample
    assert (x - clean).abs().max() < 0.1  # an exact answer; what remains is the noise of the last step


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
