"""The autoencoder: sizes, the posterior, the scale of the latents, and frames that do not mix."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from networks import TINY_VAE, filled, normal, relative_difference

from dynamicrafter.model.autoencoder import AsymmetricDownsample, Autoencoder, PixelAttention, Posterior
from dynamicrafter.model.configs import VaeConfig
from dynamicrafter.model.operations import Operations
from dynamicrafter.model.video_decoder import VideoAutoencoder, build_autoencoder

pytestmark = pytest.mark.usefixtures("one_thread")

VAE = filled(Autoencoder(TINY_VAE))
PICTURES = normal(2, 3, 8, 12).clamp(-1, 1)


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_each_level_but_one_halves_the_picture(levels: int) -> None:
    vae = filled(Autoencoder(replace(TINY_VAE, channel_mult=(1,) * levels)))
    factor = 2 ** (levels - 1)
    posterior = vae.encode(normal(1, 3, 2 * factor, 3 * factor))
    assert posterior.mean.shape == posterior.logvar.shape == (1, 4, 2, 3)
    assert vae.decode(posterior.mean).shape == (1, 3, 2 * factor, 3 * factor)


def test_the_released_autoencoder_makes_an_eighth_of_the_size() -> None:
    with torch.device("meta"):
        vae = Autoencoder(VaeConfig())
        latents = vae.latents(torch.empty(1, 3, 320, 512), torch.empty(1, 4, 40, 64))
        assert latents.shape == (1, 4, 40, 64)
        assert vae.decode(latents).shape == (1, 3, 320, 512)
    assert sum(parameter.numel() for parameter in vae.parameters()) == 83_653_863


def test_a_sample_is_the_mean_and_so_many_deviations() -> None:
    mean, logvar, noise = (normal(1, 4, 2, 2, seed=seed) for seed in range(3))
    expected = mean.double() + torch.sqrt(torch.exp(logvar.double())) * noise.double()
    torch.testing.assert_close(Posterior(mean, logvar).sample(noise).double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(Posterior(mean, logvar).sample(torch.zeros_like(noise)), mean)


@pytest.mark.parametrize(("bias", "clamped"), [(100.0, 20.0), (-100.0, -30.0)])
def test_the_log_variance_is_kept_within_bounds(bias: float, clamped: float) -> None:
    vae = filled(Autoencoder(TINY_VAE))
    with torch.no_grad():
        next(p for name, p in vae.named_parameters() if name == "quant_conv.bias")[4:] = bias
    posterior = vae.encode(PICTURES)
    assert torch.equal(posterior.logvar, torch.full_like(posterior.logvar, clamped))


def test_latents_are_scaled_samples() -> None:
    noise = normal(2, 4, 4, 6, seed=5)
    expected = 0.18215 * VAE.encode(PICTURES).sample(noise)
    assert torch.equal(VAE.latents(PICTURES, noise), expected)


def test_decoding_takes_the_scale_off_again() -> None:
    z = normal(1, 4, 3, 3)
    unscaled = filled(Autoencoder(replace(TINY_VAE, scale_factor=1.0)))
    assert relative_difference(VAE.decode(z * 0.18215), unscaled.decode(z)) < 1e-5


def test_pictures_of_a_batch_do_not_mix() -> None:
    posterior, z = VAE.encode(PICTURES), normal(2, 4, 4, 6)
    decoded = VAE.decode(z)
    for index in range(2):
        part = slice(index, index + 1)
        assert relative_difference(posterior.mean[part], VAE.encode(PICTURES[part]).mean) < 1e-5
        assert relative_difference(decoded[part], VAE.decode(z[part])) < 1e-5


def test_downsampling_pads_at_the_right_and_at_the_bottom_only() -> None:
    layer = AsymmetricDownsample(1, Operations())
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(1 if parameter.ndim > 1 else 0)
        sums = layer(torch.ones(1, 1, 4, 4))[0, 0]
    assert sums.tolist() == [[9, 6], [6, 4]]


def test_attention_looks_at_the_whole_picture() -> None:
    layer = filled(PixelAttention(8, TINY_VAE, Operations()))
    x = normal(1, 8, 3, 4)
    changed = x.clone()
    changed[..., 2, 3] += 1
    assert (layer(changed) - layer(x))[..., 0, 0].abs().max() > 1e-4


def test_attention_is_written_out_as_single_head_softmax() -> None:
    layer = filled(PixelAttention(8, TINY_VAE, Operations())).double()
    x = normal(2, 8, 3, 4).double()
    q, k, v = (conv(layer.norm(x)).flatten(2) for conv in (layer.q, layer.k, layer.v))
    weights = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(8), dim=-1)
    expected = x + layer.proj_out((v @ weights.transpose(1, 2)).reshape(x.shape))
    torch.testing.assert_close(layer(x), expected)


def test_features_are_each_levels_last_output_and_then_the_first_convolutions() -> None:
    vae = filled(Autoencoder(replace(TINY_VAE, channel_mult=(1, 2, 3))))
    features: list[torch.Tensor] = []
    picture = normal(1, 3, 8, 16)
    vae.encode(picture, features)
    assert [tuple(feature.shape) for feature in features] == [
        (1, 8, 8, 16),
        (1, 16, 4, 8),
        (1, 24, 2, 4),
        (1, 8, 8, 16),
    ]
    assert torch.equal(features[-1], vae.encoder.conv_in(picture))


def test_asking_for_features_changes_nothing() -> None:
    assert torch.equal(VAE.encode(PICTURES, []).mean, VAE.encode(PICTURES).mean)


def test_the_variant_says_which_decoder_it_has() -> None:
    with torch.device("meta"):
        assert type(build_autoencoder(VaeConfig())) is Autoencoder
        assert type(build_autoencoder(VaeConfig(video_decoder=True))) is VideoAutoencoder
