"Wrong answers to the exercises of the room pretraining that are typical, and right ones that are unusual"
import torch


from . import RIGHT, WRONG, Wrong


def _power(white, s, zero=0., root=1., finish=True):
    fy, fx = (torch.fft.fftfreq(n, dtype=white.dtype) for n in white.shape)
    f = torch.hypot(fy[:, None], fx)
    weight = torch.where(f > 0, f.clamp_min(1e-9)**(-s * root),
                         torch.tensor(zero, dtype=white.dtype))
    noise = torch.fft.ifft2(torch.fft.fft2(white) * weight).real
    return (noise - noise.mean()) / noise.std(correction=0) if finish else noise

WRONG["procedural.1"] = (
    Wrong(lambda w, s: _power(w, -s), "rough", "f to the power of +s"),
    Wrong(lambda w, s: _power(w, s, finish=False), "deviation", "not standardised"),
    Wrong(lambda w, s: w.clone(), "white", "changes nothing"),
    Wrong(lambda w, s: _power(w, s, root=.5), "power", "takes s for the power of the energy"),
    Wrong(lambda w, s: torch.fft.ifft2(torch.fft.fft2(w)), "real", "complex numbers"),
    Wrong(lambda w, s: torch.fft.ifft2(torch.fft.fft2(w) * torch.hypot(
        torch.fft.fftfreq(w.shape[0])[:, None], torch.fft.fftfreq(w.shape[1]))**-s).real,
          "frequency 0", "divides by 0"),
)


WRONG["procedural.2"] = (
    Wrong(lambda x, y, a, b: torch.hypot(x, y) - a, "hole", "a disc without a hole"),
    Wrong(lambda x, y, a, b: torch.maximum(torch.hypot(x, y) - a, torch.hypot(x, y) - b),
          "inner disc", "forgets to turn the inner one inside out"),
    Wrong(lambda x, y, a, b: torch.minimum(torch.hypot(x, y) - a, b - torch.hypot(x, y)), "either",
          "the smaller of the two"),
    Wrong(lambda x, y, a, b: torch.minimum(a - torch.hypot(x, y), torch.hypot(x, y) - b),
          "negative in the metal", "the sign"),
    Wrong(lambda x, y, a, b: torch.maximum(x**2 + y**2 - a**2, b**2 - x**2 - y**2),
          "not a distance", "squares without a root"),
    Wrong(lambda x, y, a, b: (torch.hypot(x, y) - (a + b) / 2).abs(), "width",
          "the distance to the middle of the metal"),
)
RIGHT["procedural.2"] = (lambda x, y, a, b: (torch.hypot(x, y) - (a + b) / 2).abs() - (a - b) / 2,)


WRONG["episodes.1"] = (
    Wrong("flaws", "photographs", "what it was meant to see"),
    Wrong("edges", "faintest", "edges of the flaws"),
    Wrong("colour", "faintest", "the colour of the flaws"),
)


WRONG["probe.1"] = (
    Wrong(16 / 128**2, "times", "the share in the plain mean"),
    Wrong(.5, "times", "the share in the other"),
    Wrong(1024., "half", "as if it had all the weight"),
    Wrong(2 * 16 / 128**2, "other way", "the inverse"),
    Wrong(4., "128 x 128", "takes 128 for the number of pixels"),
)


WRONG["pretrain.1"] = (
    Wrong(["a"], "c:", "forgets the seeds"),
    Wrong(["c"], "a:", "forgets the length"),
    Wrong(["a", "b", "c"], "b:", "any length"),
    Wrong(["a", "c", "e"], "e:", "other images to train than to test"),
    Wrong(["a", "c", "d"], "d:", "any seeds"),
)
