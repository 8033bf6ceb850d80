"Wrong answers to the exercises of the room training that are typical, and right ones that are unusual"
import math, random

import torch


from . import RIGHT, WRONG, Wrong


def _rate(fraction, highest, warmup, rest=None):
    if fraction < warmup: return highest * fraction / warmup
    rest = (fraction - warmup) / (1 - warmup) if rest is None else rest
    return highest * (1 + math.cos(math.pi * rest)) / 2

WRONG["steps.2"] = (
    Wrong(lambda f, h, w: _rate(f, h, w, f), "jump", "the cosine over the whole training"),
    Wrong(lambda f, h, w: h * f / w if f <= w else _rate(f, h, w), "ZeroDivisionError",
          "divides by a warm-up of 0"),
    Wrong(lambda f, h, w: h * (1 - (f - w) / (1 - w)) if f >= w else h * f / w, "cosine",
          "falls in a straight line"),
    Wrong(lambda f, h, w: _rate(f, h, 0.), "warm-up", "forgets the warm-up"),
    Wrong(lambda f, h, w: _rate(f, h, w, (f - w)), "end", "doesn't reach 0"),
)


def _seeded(number, count):
    return torch.rand(count, generator=torch.Generator().manual_seed(number))

def _global(seed, step, count):
    torch.manual_seed(seed * 1_000_003 + step)
    return torch.rand(count)

WRONG["steps.3"] = (
    Wrong(lambda s, k, n: _seeded(s, n), "every step", "the seed only"),
    Wrong(lambda s, k, n: _seeded(k, n), "seed", "the step only"),
    Wrong(lambda s, k, n: _seeded(s + k, n), "(1, 2)", "their sum"),
    Wrong(_global, "global", "seeds PyTorch itself"),
    Wrong(lambda s, k, n: _seeded(random.randrange(9**9), n),
          "same", "a new seed each time"),
    Wrong(lambda s, k, n: torch.randn(n, generator=torch.Generator().manual_seed(s * 10**6 + k)),
          "0 to 1", "a normal distribution"),
)


def _parts(names, samples, held_back):
    return names[:samples], names[samples + held_back:], names[samples:samples + held_back]

def _mixed(names, seed): return random.Random(seed).sample(names, len(names))

WRONG["steps.4"] = (
    Wrong(lambda n, s, h, seed: _parts(_mixed(n, seed), s, h), "order", "forgets to sort"),
    Wrong(lambda n, s, h, seed: _parts(sorted(n), s, h), "another seed", "not random"),
    Wrong(lambda n, s, h, seed: (_mixed(sorted(n), seed)[:s], sorted(n),
                                 _mixed(sorted(n), seed)[s:s + h]),
          "one list only", "trains on all"),
    Wrong(lambda n, s, h, seed: _parts(random.sample(sorted(n), len(n)), s, h), "twice",
          "doesn't use the seed"),
    Wrong(lambda n, s, h, seed: _parts(_mixed(sorted(n), seed), h, s), "memory",
          "the numbers swapped"),
)


WRONG["train.2"] = (
    Wrong(lambda c, t: (.01 * torch.randn(t, c)).mean().item(), "best", "the mean"),
    Wrong(lambda c, t: (.01 * torch.randn(t, c)).max().item(), "mean over",
          "the best of all trials"),
    Wrong(lambda c, t: (.01 * torch.randn(t, c)).amax(0).mean().item(), "of each trial",
          "the best of the wrong axis"),
    Wrong(lambda c, t: .95 + (.01 * torch.randn(t, c)).amax(1).mean().item(), "minus 0.95",
          "forgets to subtract"),
    Wrong(lambda c, t: (.01 * torch.rand(t, c)).amax(1).mean().item(), "normal",
          "evenly spread noise"),
)


def _descend(w, v, gradient, steps, rate, momentum, order="v first", share=1., ahead=False,
             sign=-1):
    for _ in range(steps):
        if order == "w first": w = w + sign * rate * v
        v = momentum * v + share * gradient(w - rate * momentum * v if ahead else w)
        if order == "v first": w = w + sign * rate * v
    return w, v

WRONG["train.4"] = (
    Wrong(lambda w, v, g, n, r, m: _descend(w, 0. * v, g, n, r, m), "from rest",
          "forgets the velocity that is given"),
    Wrong(lambda w, v, g, n, r, m: _descend(w, v, g, n, r, m, "w first"), "first",
          "moves, then takes the gradient"),
    Wrong(lambda w, v, g, n, r, m: _descend(w, v, g, n, r, m, share=1 - m), "1 - momentum",
          "an average of gradients"),
    Wrong(lambda w, v, g, n, r, m: _descend(w, v, g, n, r, m, ahead=True), "ahead",
          "Nesterov's momentum"),
    Wrong(lambda w, v, g, n, r, m: _descend(w, v, g, n, r, m)[0], "(w, v)", "the weight only"),
    Wrong(lambda w, v, g, n, r, m: _descend(w, v, g, n, r, m, sign=1), "uphill", "the sign"),
)
RIGHT["train.4"] = (lambda *given: list(_descend(*given)),)


def _rank(good, rate, gaps=1, order=sorted):
    "`gaps`: how many more than scores"
    above = math.floor(rate * (len(good) + gaps) + 1e-9)
    return order(good)[-above] if above else None

WRONG["thresholds.1"] = (
    Wrong(lambda good, rate: sorted(good)[-math.floor(rate * len(good) + 1e-9) - 1], "gaps",
          "the share of these images, not of further ones"),
    Wrong(lambda good, rate: max(good), "a lower one", "the highest"),
    Wrong(lambda good, rate: _rank(good, rate) or max(good), "None", "the highest where there are too few"),
    Wrong(lambda good, rate: _rank(good, rate, order=list), "sort", "forgets to sort"),
    Wrong(lambda good, rate: sum(good) / len(good), "one of the scores", "the mean"),
    Wrong(lambda good, rate: math.ceil((len(good) + 1) * (1 - rate)), "that's a rank", "the rank"),
)
RIGHT["thresholds.1"] = (
    lambda good, rate: next((s for s in sorted(good)
                             if 1 + sum(o > s for o in good) <= rate * (len(good) + 1) + 1e-9), None),)


def _cost(scores, defective, threshold, missed, thrown):
    return sum(missed if bad and s <= threshold else thrown if s > threshold and not bad else 0
               for s, bad in zip(scores, defective))

def _levels(scores): return [min(scores) - 1, *scores]

def _most_right(scores, defective, missed, thrown):
    return min(_levels(scores), key=lambda t: _cost(scores, defective, t, 1, 1))

def _none_missed(scores, defective, missed, thrown):
    return min(s for s, bad in zip(scores, defective) if bad) - 1e-9

def _least(scores, defective, missed, thrown):
    return min(_cost(scores, defective, t, missed, thrown) for t in _levels(scores))

def _middle(scores, defective, missed, thrown):
    good, bad = ([s for s, b in zip(scores, defective) if b == wanted] for wanted in (False, True))
    return (sum(good) / len(good) + sum(bad) / len(bad)) / 2

WRONG["thresholds.2"] = (
    Wrong(_most_right, "prices", "as few mistakes as possible, whatever they cost"),
    Wrong(_none_missed, "worth", "never misses a defect"),
    Wrong(_least, "costs least", "returns the cost"),
    Wrong(_middle, "would cost", "between the means"),
    Wrong(lambda s, d, m, t: _most_right(s, d, m, t) if m < t else _cost, "number",
          "returns a function"),
)
