"""The losses against numbers worked by hand, torch's own losses, and logits that break naive versions."""
import math

import pytest
import torch
import torch.nn.functional as F

from memseg_nb.model.losses import balanced_loss, focal_loss, l1_loss, memseg_loss
from memseg_nb.files import MemSegError
from memseg_nb.recipe import load_recipe


def two_pixels(normal=.1, anomalous=.4):
    "Logits that give a good pixel and a defective one these probabilities of being anomalous"
    z = torch.logit(torch.tensor([[[normal, anomalous]]], dtype=torch.float64))
    return torch.stack([torch.full_like(z, 3.), z + 3.], 1), torch.tensor([[[False, True]]])


def noise(seed=0, batch=3, size=(8, 12)):
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(batch, 2, *size, generator=generator),
            torch.rand(batch, *size, generator=generator) < .2)


def test_by_hand():
    logits, masks = two_pixels()
    losses = memseg_loss(logits, masks, load_recipe().loss)
    focal = (.1 ** 4 * -math.log(.9) + 1.2 * .6 ** 4 * -math.log(.4)) / 2
    assert losses.l1.item() == pytest.approx(.35)
    assert losses.focal.item() == pytest.approx(focal)
    assert losses.total.item() == pytest.approx(.6 * .35 + .4 * focal)
    assert l1_loss(logits, masks) == losses.l1 and focal_loss(logits, masks) == losses.focal


def test_each_number_of_the_recipe_counts():
    logits, masks = noise()
    base = load_recipe()
    for change, expected in {
        "loss.l1": lambda r: .9 * l1_loss(logits, masks) + .4 * focal_loss(logits, masks),
        "loss.focal": lambda r: .6 * l1_loss(logits, masks) + .9 * focal_loss(logits, masks),
        "loss.gamma": lambda r: .6 * l1_loss(logits, masks) + .4 * focal_loss(logits, masks, gamma=.9),
        "loss.alpha_normal": lambda r: (.6 * l1_loss(logits, masks)
                                        + .4 * focal_loss(logits, masks, alpha_normal=.9)),
        "loss.alpha_anomalous": lambda r: (.6 * l1_loss(logits, masks)
                                           + .4 * focal_loss(logits, masks, alpha_anomalous=.9)),
        "loss.balanced": lambda r: (.6 * l1_loss(logits, masks) + .4 * focal_loss(logits, masks)
                                    + .9 * balanced_loss(logits[:, 1] - logits[:, 0], masks)),
    }.items():
        recipe = base.replace(**{change: .9}).loss
        torch.testing.assert_close(memseg_loss(logits, masks, recipe).total, expected(recipe))
        assert memseg_loss(logits, masks, recipe).total != memseg_loss(logits, masks, base.loss).total


def test_balanced_by_hand():
    logits = torch.tensor([[[2., -1.], [0., 3.]]])
    masks = torch.tensor([[[True, False], [False, False]]])
    alarms = [math.log(1 + math.exp(z)) for z in (-1., 0., 3.)]
    by_hand = .5 * math.log(1 + math.exp(-2.)) + sum(alarms) / 4 + .1 * alarms[2]
    assert balanced_loss(logits, masks).item() == pytest.approx(by_hand, rel=1e-6)
    assert balanced_loss(logits, ~masks & masks).isfinite()  # no defect anywhere


def test_balanced_counts_defects_and_not_pixels():
    masks = torch.zeros(2, 32, 32, dtype=torch.bool)
    masks[0, :16], masks[1, 0, :3] = True, True
    logits = torch.zeros(2, 32, 32, requires_grad=True)
    balanced_loss(logits, masks).backward()
    pulls = [logits.grad[k][masks[k]].sum().item() for k in (0, 1)]
    assert pulls[0] == pytest.approx(pulls[1]) and pulls[0] < 0


def test_gamma_zero_is_cross_entropy():
    logits, masks = noise()
    torch.testing.assert_close(focal_loss(logits, masks, 0., 1., 1.), F.cross_entropy(logits, masks.long()))
    weighted = F.cross_entropy(logits, masks.long(), torch.tensor([.5, 3.]), reduction="none").mean()
    torch.testing.assert_close(focal_loss(logits, masks, 0., .5, 3.), weighted)


def test_against_plain_probabilities():
    logits, masks = noise(1)
    probability = logits.double().softmax(1)[:, 1]
    truth = torch.where(masks, probability, 1 - probability)
    alpha = torch.where(masks, 1.2, 1.).double()
    focal = (-alpha * (1 - truth) ** 4 * truth.log()).mean()
    torch.testing.assert_close(focal_loss(logits, masks), focal.float())
    torch.testing.assert_close(l1_loss(logits, masks), (masks.double() - probability).abs().mean().float())


@pytest.mark.parametrize("gamma", [0., .5, 1., 2., 4.])
def test_slope_of_focal(gamma):
    z = torch.linspace(-30, 30, 121, requires_grad=True)
    masks = torch.ones(1, 1, 121, dtype=torch.bool)
    focal_loss(torch.stack([torch.zeros_like(z), z])[None, :, None], masks, gamma, 1., 1.).backward()
    exact = z.detach().double()
    p, rest = exact.sigmoid(), (-exact).sigmoid()
    known = rest ** gamma * (gamma * p * F.logsigmoid(exact) - rest) / 121
    torch.testing.assert_close(z.grad, known.float(), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("size", [50., 200., 1e4, 1e30])
@pytest.mark.parametrize("gamma", [0., .5, 4.])
def test_extreme_logits_stay_finite(size, gamma):
    logits = torch.tensor([[-size, size], [size, -size]]).view(2, 2, 1, 1).requires_grad_()
    for masks in ([False, True], [True, False]):
        masks = torch.tensor(masks).view(2, 1, 1)
        loss = focal_loss(logits, masks, gamma) + l1_loss(logits, masks)
        gradient, = torch.autograd.grad(loss, logits)
        assert loss.isfinite() and gradient.isfinite().all()


def test_wrong_and_sure_still_has_a_gradient():
    logits = torch.tensor([0., 200.]).view(1, 2, 1, 1).requires_grad_()
    focal_loss(logits, torch.zeros(1, 1, 1, dtype=torch.bool)).backward()
    torch.testing.assert_close(logits.grad.flatten(), torch.tensor([-1., 1.]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    logits, masks = noise()
    half = logits.to(dtype)
    losses = memseg_loss(half, masks, load_recipe().loss)
    assert losses.total.dtype == torch.float32
    assert losses == memseg_loss(half.float(), masks, load_recipe().loss)


def test_perfect_and_worst():
    masks = noise()[1]
    sure = torch.stack([(~masks).float(), masks.float()], 1) * 200 - 100
    assert l1_loss(sure, masks) == 0 and focal_loss(sure, masks) == 0
    assert l1_loss(-sure, masks) == 1


@pytest.mark.parametrize("logits, masks", [
    (torch.zeros(2, 2, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.bool)),
    (torch.zeros(2, 2, 4, 4), torch.zeros(2, 8, 8, dtype=torch.bool)),
    (torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4, dtype=torch.bool)),
    (torch.zeros(2, 2, 4, 4), torch.zeros(2, 4, 4)),
    (torch.zeros(2, 4, 4), torch.zeros(2, 4, dtype=torch.bool)),
])
def test_wrong_shapes_and_types_are_refused(logits, masks):
    with pytest.raises(MemSegError, match="expected"):
        l1_loss(logits, masks)
    with pytest.raises(MemSegError, match="expected"):
        memseg_loss(logits, masks, load_recipe().loss)
