"Wrong answers to the exercises of the room evaluation that are typical, and right ones that are unusual"
import torch


from . import RIGHT, WRONG, Wrong


WRONG["metrics.1"] = (
    Wrong(4., "share", "the number of pairs"),
    Wrong(1 / 3, "other way", "the good one higher"),
    Wrong(.8, "pairs", "correct decisions of five"),
    Wrong(.5, "0.3", "forgets the pair of 0.3 and 0.1"),
)


def _pairs(scores, labels, tie=.5):
    good, bad = scores[~labels], scores[labels]
    above, equal = (bad[:, None] > good).double(), (bad[:, None] == good).double()
    return (above + tie * equal).mean().item()

WRONG["metrics.2"] = (
    Wrong(lambda s, y: _pairs(s, y, 0.), "tie", "a tie is lost"),
    Wrong(lambda s, y: _pairs(s, y, 1.), "tie", "a tie is won"),
    Wrong(lambda s, y: _pairs(s, ~y), "other way", "good and defective swapped"),
    Wrong(lambda s, y: ((s > .5) == y).float().mean().item(), "threshold", "accuracy"),
    Wrong(lambda s, y: (s[y].mean() - s[~y].mean()).item(), "order", "difference of the means"),
)


def _pro(m, r, t, above=lambda m, t: m >= t, zero=False):
    kinds = [k for k in r.unique().tolist() if k or zero]
    shares = [above(m, t)[r == k].double().mean().item() for k in kinds]
    return sum(shares) / len(shares) if shares else None

WRONG["metrics.4"] = (
    Wrong(lambda m, r, t: (m >= t)[r > 0].double().mean().item() if r.any() else None,
          "each defect", "all pixels together"),
    Wrong(lambda m, r, t: _pro(m, r, t, zero=True) if r.any() else None,
          "0", "counts the background as a region"),
    Wrong(lambda m, r, t: _pro(m, r, t, lambda m, t: m > t), "at the threshold", "above only"),
    Wrong(lambda m, r, t: _pro(m, r, t) or 0., "None", "0 if there is none"),
    Wrong(lambda m, r, t: sum(((m >= t) & (r == k)).any().item() for k in (1, 2)) / 2 if r.any()
          else None,
          "share", "a hit is a hit"),
)


def _two():
    truth = torch.zeros(40, 40, dtype=torch.bool)
    truth[:20, :20] = truth[30:32, 30:32] = True
    return truth

WRONG["metrics.5"] = (
    Wrong(lambda: _two().float(), "second defect", "finds both"),
    Wrong(lambda: torch.zeros(40, 40), "AUROC", "knows nothing"),
    Wrong(lambda: torch.rand(40, 40), "second defect", "random"),
    Wrong(lambda: 2. * _two(), "0 to 1", "above 1"),
)


WRONG["results.1"] = (
    Wrong((.8, 2 / 3), "order", "swapped"),
    Wrong((.8, .8), "12", "of the defective ones, twice"),
    Wrong((.94, .8), "accuracy", "accuracy"),
    Wrong((.12, .1), "of those", "shares of all parts"),
)


WRONG["results.2"] = (
    Wrong(["a", "c"], "reported", "forgets d"),
    Wrong(["a", "b", "c", "d"], "b", "adds the test images"),
    Wrong(["a", "c", "d", "e"], "test set", "adds the good test images"),
    Wrong(["a"], "simulated", "the held-back ones only"),
    Wrong(["c", "d"], "a:", "forgets a"),
)


WRONG["ablation.1"] = (
    Wrong(lambda a, b: ((a - b).mean().item(), (a - b).std().item()), "root of n",
          "the standard deviation"),
    Wrong(lambda a, b: ((a - b).mean().item(), ((a.var() + b.var()) / len(a)).sqrt().item()),
          "same seed", "as if the seeds were others"),
    Wrong(lambda a, b: ((a - b).mean().item(), (a - b).std(correction=0).item() / len(a)**.5),
          "n - 1", "divides by n"),
    Wrong(lambda a, b: ((b - a).mean().item(), (a - b).std().item() / len(a)**.5), "whole minus",
          "the other way round"),
    Wrong(lambda a, b: (a - b).mean().item(), "tuple", "the mean only"),
)


def _fair(scores, failed=None, need=all):
    figures = {key: failed if value is None else value for key, value in scores.items()}
    ways, names = (sorted({key[k] for key in scores}) for k in (0, 1))
    whole = [n for n in names if need(figures.get((way, n), failed) is not None for way in ways)]
    groups = {way: [figures[way, n] for n in whole if figures.get((way, n)) is not None]
              for way in ways}
    return {way: sum(values) / len(values) for way, values in groups.items() if values}

WRONG["comparison.1"] = (
    Wrong(lambda s: _fair(s, need=any), "own", "each over its own products"),
    Wrong(lambda s: _fair({k: v or 0. for k, v in s.items()}), "zero", "a failure is 0"),
    Wrong(lambda s: {w: m for w, m in _fair(s).items() if w != "new"}, "every way",
          "leaves out who failed"),
    Wrong(lambda s: _fair(s) or dict.fromkeys((key[0] for key in s), 0.),
          "empty", "zeros where nothing is common"),
)
RIGHT["comparison.1"] = (_fair,)
