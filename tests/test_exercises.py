"Exercises: solutions are accepted, typical wrong answers get their hint, nothing hangs or crashes; progress is kept"

import json
import re
from pathlib import Path

import pytest
import torch

import memseg_nb
from memseg_nb.exercises import engine as course
from memseg_nb.exercises.engine import (KINDS, Hint, TooLong, check, close, copy_course, course_lessons,
                                        current_key, exercises, expect, expect_letters, expect_number,
                                        expect_numbers, expect_tensor, find, has_loop, judge, known_answer,
                                        limited, progress, progress_table, read_progress, record,
                                        solution, solve, unwritten)
from memseg_nb.files import MemSegError
from wrong_answers import right_answers, wrong_answers

EXERCISES, WRONG = exercises(), wrong_answers()
each = pytest.mark.parametrize("one", EXERCISES, ids=lambda one: one.key)
ROOT = Path(memseg_nb.__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "nbs" / "exercises").glob("*.ipynb"))


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMSEG_COURSE", str(tmp_path / "course" / "progress.json"))
    return tmp_path / "course" / "progress.json"


# Every exercise

@each
def test_the_solution_is_accepted(one):
    assert judge(one.key, solve(one)) is None


@each
def test_a_typical_wrong_answer_gets_its_hint(one):
    assert len(WRONG[one.key]) >= 2
    for wrong in WRONG[one.key]:
        hint = judge(one.key, wrong.answer)
        assert hint is not None, f"accepted: {wrong.why}"
        assert wrong.hint.lower() in hint.lower(), f"{wrong.why}: {hint}"
        assert not hint.startswith("not answered yet") and len(hint) < 400 and wrong.why


def test_wrong_answers_belong_to_exercises():
    keys = {one.key for one in EXERCISES}
    assert set(WRONG) == keys and set(right_answers()) <= keys


GARBAGE = ["", "garbage", float("nan"), float("inf"), -12345.678, [], {}, object(), True, torch.tensor([]),
           b"x", int,
           lambda *a: float("nan"), lambda *a: a[0] if a else 7, lambda *a: "text", lambda *a: torch.zeros(1),
           lambda *a: 1 / 0, lambda *a: {}, lambda *a: True, lambda: 1]


@each
def test_garbage_is_rejected_with_words(one):
    for answer in GARBAGE:
        hint = judge(one.key, answer)
        assert isinstance(hint, str) and hint, f"{one.key} accepts {answer!r}"


@each
def test_an_empty_cell_is_not_a_try(one, own_progress, capsys):
    empty = (type("Empty", (torch.nn.Module,), {}) if one.answer.startswith("class")
             else ((lambda *a: ...) if "(" in one.answer else ...))
    check(one.key, empty)
    assert "not answered yet" in capsys.readouterr().out and not own_progress.exists()


@each
def test_is_complete(one):
    assert one.kind in KINDS and one.title and one.solution and one.answer
    assert one.lesson in {lesson.name for lesson in course_lessons()}


@each
def test_has_its_task_its_cell_and_its_folded_solution_in_one_notebook(one):
    "In its lesson, or in a notebook of exercises"
    lesson = next(lesson for lesson in course_lessons() if lesson.name == one.lesson)
    found = []
    for path in (ROOT / "nbs" / f"{lesson.notebook}.ipynb", *NOTEBOOKS):
        cells = [("".join(c["source"]), c) for c in json.loads(path.read_text())["cells"]]
        found += [cells[k + 1:k + 3] for k, (text, _) in enumerate(cells)
                  if text.startswith(f"### Exercise {one.key} · {one.label}\n")]
    assert len(found) == 1, "no task, or its title, kind and core differ"
    code, after = found[0]
    assert f'check("{one.key}", ' in code[0] and "..." in code[0]
    folded = next(each for each in (code, after) if f'solution("{one.key}")' in each[0])
    assert "(" not in one.answer or one.name in code[0]
    assert "<details>" in json.dumps(folded[1]["outputs"]), "the solution isn't there, folded"


def test_every_kind_is_there_and_they_follow_the_course():
    assert {one.kind for one in EXERCISES} == set(KINDS)
    numbers = {}
    for one in EXERCISES: numbers.setdefault(one.lesson, []).append(int(one.key.partition(".")[2]))
    names = [lesson.name for lesson in course_lessons()]
    assert list(numbers) == [name for name in names if name in numbers]
    for name, found in numbers.items():  # a number that is missing was dropped, and counts elsewhere
        gaps = set(range(1, max(found))) - set(found)
        assert found == sorted(found) and all(current_key(f"{name}.{k}") != f"{name}.{k}" for k in gaps), name


def test_about_forty_are_core_and_each_lesson_of_the_main_path_has_one():
    core = [one for one in EXERCISES if one.core]
    kinds = {lesson.name: lesson.kind for lesson in course_lessons()}
    assert 35 <= len(core) <= 45 and {kinds[one.lesson] for one in core} == {"main"}
    assert {one.lesson for one in core} == {one.lesson for one in EXERCISES if kinds[one.lesson] == "main"}


def test_what_was_dropped_leads_to_an_exercise_that_is_there():
    keys = {one.key for one in EXERCISES}
    assert not keys & set(course._DROPPED) and set(course._DROPPED.values()) <= keys


def test_solved_before_it_was_dropped_still_counts(own_progress):
    own_progress.parent.mkdir(parents=True)
    earlier = {"steps.1": {"tries": 2, "solved": "2025-01-31"}, "steps.2": {"tries": 1, "solved": ""},
               "14b.2": {"tries": 1, "solved": "2025-02-01"}}
    own_progress.write_text(json.dumps({"exercises": earlier}))
    assert read_progress(own_progress) == {"steps.2": {"tries": 2, "solved": "2025-01-31"},
                                           "shapes.3": {"tries": 1, "solved": "2025-02-01"}}


@pytest.mark.parametrize("path", NOTEBOOKS[1:], ids=lambda path: path.stem)
def test_a_notebook_links_to_the_lessons_of_its_exercises(path):
    cells = ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"]]
    linked = re.findall(r"\]\(\.\./([\w/]+)\.ipynb\)", cells[0])
    keys = [found[1] for cell in cells if (found := re.match(r"### Exercise (\w+)\.", cell))]
    lessons = {lesson.name: lesson.notebook for lesson in course_lessons()}
    assert linked == [lessons[name] for name in dict.fromkeys(keys)]


# Lessons and keys

def test_lessons_are_those_of_the_list_and_come_with_the_package(tmp_path, monkeypatch):
    import tomllib
    root = Path(memseg_nb.__file__).parents[1]
    text = (root / "nbs" / "course.toml").read_text(encoding="utf-8")
    parts = tomllib.loads(text)["part"]
    assert [lesson.notebook for lesson in course_lessons()] == [x for part in parts for x in part["lessons"]]
    assert {lesson.kind for lesson in course_lessons()} == {"main", "further", "workshop"}
    (tmp_path / "memseg_nb").mkdir()
    (tmp_path / "memseg_nb" / "course.toml").write_text(text, encoding="utf-8")
    there = course_lessons()
    monkeypatch.setattr(memseg_nb, "__file__", str(tmp_path / "memseg_nb" / "__init__.py"))
    assert course_lessons() == there


@pytest.mark.parametrize("old, new", [("3.1", "perlin.1"), ("13b.4", "steps.4"), ("4a.2", "textures.5"),
                                      ("2f.1", "electronics.2"), ("2g.1", "electronics.1"),
                                      ("14b.1", "procedural.2"), ("22d.1", "thresholds.2"),
                                      ("evaluate.2", "results.2"), ("evaluate.3", "metrics.2")])
def test_keys_of_earlier_versions_still_count(old, new, own_progress, capsys):
    assert current_key(old) == current_key(new) == find(old).key == new
    own_progress.parent.mkdir(parents=True)
    earlier = {old: {"tries": 3, "solved": "2025-01-31"}, "19.1": {"tries": 1, "solved": "2025-02-01"}}
    own_progress.write_text(json.dumps({"exercises": earlier}))
    assert next(s for s in progress() if s.exercise.key == new)[1:] == (3, "2025-01-31")
    check(old, solve(find(new)))
    assert f"{new}: right. 1 of {len(EXERCISES)} solved" in capsys.readouterr().out
    assert read_progress(own_progress)[new] == {"tries": 3, "solved": "2025-01-31"}


def test_solved_under_an_earlier_key_is_not_lost_to_a_later_try(own_progress):
    own_progress.parent.mkdir(parents=True)
    for keys in (("3.1", "perlin.1"), ("perlin.1", "3.1")):
        both = dict(zip(keys, ({"tries": 3, "solved": "2025-01-31"}, {"tries": 1, "solved": ""})))
        own_progress.write_text(json.dumps({"exercises": both}))
        assert read_progress(own_progress) == {"perlin.1": {"tries": 3, "solved": "2025-01-31"}}


# The engine

def endless(t):
    while True: t = t + 0


def stubborn(t):
    while True:
        try: t = t + 0
        except Exception: pass


def listed(t):
    import itertools
    return [x for x in itertools.count()]


def summed(t):
    import itertools
    return sum(1 for _ in itertools.count())


def leaves(t): raise SystemExit(3)


def deep(t): return deep(t)


@pytest.mark.parametrize("answer", [endless, stubborn, listed, summed])
def test_an_endless_answer_is_stopped(answer, monkeypatch):
    monkeypatch.setattr(course, "LIMIT", 100_000)
    assert "never ends" in judge("perlin.1", answer)


def test_errors_become_one_line():
    def fade(t):
        return t[0][7]
    hint = judge("perlin.1", fade)
    assert ("line" in hint and "fade" in hint and "IndexError" in hint and "Traceback" not in hint
            and "\n" not in hint)
    assert "SystemExit" in judge("perlin.1", leaves) and "RecursionError" in judge("perlin.1", deep)


def test_what_is_asked_for_decides_between_value_and_function():
    assert "the function itself" in judge("perlin.1", .5) and "not a function" in judge("perlin.2",
                                                                                        lambda: 45)
    assert judge("perlin.1", None).startswith("not answered yet: fade(t)")


def test_unknown_exercises_are_named():
    with pytest.raises(MemSegError, match="perlin.1, perlin.2"): check("3.99", 1)
    with pytest.raises(MemSegError, match="as a text"): find("no such")


def test_close_is_never_true_of_what_is_not_finite():
    assert close(1, 1.00001) and close(torch.ones(3), torch.ones(3)) and not close(1, 1.1)
    assert (not close(float("nan"), float("nan")) and not close(1, float("nan"))
            and not close(torch.ones(3), 1))


def test_expectations():
    expect(True, "no")
    for bad in (lambda: expect(False, "said"), lambda: expect_number(True), lambda: expect_number("1"),
                lambda: expect_number(float("inf")), lambda: expect_numbers(1, "height, width"),
                lambda: expect_numbers((1, "2"), "height, width"), lambda: expect_tensor(None, (1,)),
                lambda: expect_tensor(torch.zeros(2), (1,)),
                lambda: expect_tensor(torch.tensor([float("nan")]), (1,)), lambda: expect_tensor(1, (1,)),
                lambda: expect_letters([], "abc"), lambda: expect_letters([1], "abc"),
                lambda: expect_letters(["d"], "abc"), lambda: expect_letters(", ", "abc")):
        with pytest.raises(Hint): bad()
    assert expect_number(torch.tensor([2])) == 2
    assert expect_numbers(torch.Size((3, 4)), "height, width") == [3, 4]
    assert expect_letters("A, b", "abc") == expect_letters(["b", "a"], "abc") == {"a", "b"}


@pytest.mark.parametrize("answer, hint", [
    ((2, 3), None), ([2., 3.0001], None), ((3, 2), "the other way round"), ((2.5, 3), "2 x 3"),
    ((2,), "2 numbers are asked for: (rows, columns)"), ((2, "3"), "columns should be a number")])
def test_a_known_answer_is_judged_by_its_table(answer, hint):
    judged = known_answer((2, 3), "2 x 3", {(3, 2): "the other way round"}, "rows, columns", tolerance=1e-3)
    if hint is None: return judged(answer)
    with pytest.raises(Hint, match=re.escape(hint)): judged(answer)


def test_unwritten():
    def documented(a):
        "Says what it would do"

    class Empty(torch.nn.Module): ...

    class Full(torch.nn.Module):
        def forward(self, x): return x
    assert all(map(unwritten, (None, ..., lambda x: ..., lambda x: None, documented, Empty)))
    assert not any(map(unwritten, (0, "", lambda x: x, lambda x: 1, Full, torch.relu)))


def test_has_loop():
    assert (has_loop(endless) and has_loop(lambda x: [y for y in x])
            and has_loop(lambda x: (lambda y: [z for z in y])(x)))
    assert not has_loop(lambda x: x + 1) and not has_loop(torch.relu)


def test_lines_of_libraries_are_not_counted():
    import difflib
    with limited(20): difflib.SequenceMatcher(None, "a" * 50, "b" * 50).ratio()
    with pytest.raises(TooLong), limited(20): sum(k for k in range(50))


def test_limited_leaves_a_debugger_alone():
    import sys
    before = sys.gettrace()
    with limited(5): pass
    assert sys.gettrace() is before


# Progress

def test_tries_and_solved_are_kept(own_progress, capsys):
    check("perlin.2", 32)
    check("perlin.2", 45)
    check("perlin.2", 6)  # solved stays solved, and further tries don't count
    out = capsys.readouterr().out
    assert "cells" in out and f"perlin.2: right. 1 of {len(EXERCISES)} solved" in out
    known = read_progress(own_progress)["perlin.2"]
    assert known["tries"] == 2 and re.fullmatch(r"\d{4}-\d\d-\d\d", known["solved"])
    standing = next(s for s in progress() if s.exercise.key == "perlin.2")
    assert standing.tries == 2 and standing.solved
    table = progress_table(progress())
    assert "[x] perlin.2" in table and "[ ] perlin.1" in table and f"1 of {len(EXERCISES)} solved" in table
    assert len(table.splitlines()) == len(EXERCISES) + len({e.lesson for e in EXERCISES}) + 1
    assert [p.name for p in own_progress.parent.iterdir()] == ["progress.json"]


@pytest.mark.parametrize("content",
                         ["", "{", "[]", "null", '{"exercises": 3}', '{"exercises": {"perlin.2": 1}}',
                                     '{"exercises": {"perlin.2": {"tries": "x", "solved": 1}}}', "\x00\x01",
                                     '{"other": {}}'])
def test_a_broken_file_is_put_aside(own_progress, capsys, content):
    own_progress.parent.mkdir(parents=True)
    own_progress.write_text(content)
    assert read_progress(own_progress) == {} and progress_table(progress())
    check("perlin.2", 45)
    assert read_progress(own_progress)["perlin.2"]["solved"]
    kept = own_progress.with_suffix(".broken.json")
    assert not content or (kept.read_text() == content and "couldn't be read" in capsys.readouterr().out)


def test_bytes_that_are_no_text(own_progress):
    own_progress.parent.mkdir(parents=True)
    own_progress.write_bytes(b"\xff\xfe\x00\x80")
    assert read_progress(own_progress) == {}
    check("perlin.2", 45)
    assert read_progress(own_progress)["perlin.2"]["solved"]


def test_a_folder_that_can_not_be_written_is_said_and_no_more(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("MEMSEG_COURSE", str(tmp_path / "file" / "progress.json"))
    check("perlin.2", 45)
    out = capsys.readouterr().out
    assert "right" in out and "progress isn't kept" in out


def test_without_the_variable_it_is_the_users_folder(monkeypatch):
    monkeypatch.delenv("MEMSEG_COURSE")
    assert (course.progress_path().name == "course.json"
            and "memseg_nb" in str(course.progress_path().parent).replace("-", "_"))


def test_an_interrupted_write_leaves_the_old_file(own_progress, monkeypatch):
    record("perlin.2", True, own_progress)
    before = own_progress.read_text()

    def fails(*a): raise OSError("disk full")
    monkeypatch.setattr(course.os, "replace", fails)
    assert "disk full" in record("perlin.1", True, own_progress)
    assert own_progress.read_text() == before


# Solutions and the command

def test_a_solution_is_folded():
    folded = solution("perlin.1")
    assert (folded._repr_html_().startswith("<details><summary>") and "def fade" not in repr(folded)
            and "def fade" in str(folded))


def test_the_command_shows_the_table(own_progress, capsys):
    from memseg_nb.cli import main
    record("perlin.2", True, own_progress)
    with pytest.raises(SystemExit) as end: main(["course", "progress"])
    out = capsys.readouterr().out
    assert end.value.code == 0 and "[x] perlin.2" in out and f"1 of {len(EXERCISES)} solved" in out


# Other right answers: no checker insists on its own way

class EvalInForward(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.inner = network
        for p in self.inner.parameters(): p.requires_grad = False

    def forward(self, x):
        self.inner.eval()
        return self.inner(x)


def otsu_by_search(counts):
    best, levels = (-1., 0), torch.arange(len(counts)).float()
    for k in range(len(counts) - 1):
        low, high = counts[:k + 1], counts[k + 1:]
        if low.sum() == 0 or high.sum() == 0: continue
        m0, m1 = (low * levels[:k + 1]).sum() / low.sum(), (high * levels[k + 1:]).sum() / high.sum()
        score = (low.sum() * high.sum() * (m0 - m1)**2).item()
        if score > best[0] * (1 + 1e-6): best = score, k
    return best[1]


def blind_in_the_middle_level():
    d1, d2, d3 = torch.ones(1, 2, 16, 16), torch.ones(1, 2, 8, 8), torch.ones(1, 2, 4, 4)
    d2[..., 1:4, 1:4] = 0
    return d1, d2, d3


def until_it_meets(draw, foreground, tries):
    k = 0
    while k < tries:
        k += 1
        mask = torch.logical_and(draw(), foreground)
        if mask.sum() > 0: return mask.float()
    return foreground.float()


def with_numpy(seed, step, count):
    import numpy as np
    return torch.from_numpy(np.random.default_rng([seed, step]).random(count))


def other_way_down(f1, f2, f3, conv2, conv1):
    up = torch.nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    new = f2 + conv2(up(f3))
    return [f1 + conv1(up(new)), new, f3]


def focal_by_cross_entropy(logits, masks, gamma, alpha_normal, alpha_anomalous):
    ce = torch.nn.functional.cross_entropy(logits, masks.long(), reduction="none")
    return ((alpha_normal + (alpha_anomalous - alpha_normal) * masks.float()) * (1 - torch.exp(-ce))**gamma
            * ce).mean()


def unfolded(image, order, rows, columns):
    c, h, w = image.shape
    size = (h // rows, w // columns)
    pieces = torch.nn.functional.unfold(image[None], size, stride=size)[:, :, order]
    return torch.nn.functional.fold(pieces, (h, w), size, stride=size)[0]


ALSO_RIGHT = [
    ("perlin.1", lambda t: 6 * t**5 - 15 * t**4 + 10 * t**3), ("perlin.2", 45.0),
    ("perlin.2", torch.tensor(45)),
    ("perlin.3", lambda noise, share: noise.flatten().sort(descending=True)
     .values[round(share * noise.numel())].item()),
    ("foreground.1", otsu_by_search), ("anomalies.1", .4),
    ("anomalies.2", lambda i, s, m, o: torch.where(m[:, None], o.view(-1, 1, 1, 1) * s
                                           + (1 - o.view(-1, 1, 1, 1)) * i, i)),
    ("anomalies.4", until_it_meets), ("anomalies.5", unfolded), ("encoder.1", [128, 32, 24]),
    ("encoder.2", EvalInForward),
    ("memory.3", lambda m, f: (m.unsqueeze(0) - f.unsqueeze(1)).abs().flatten(2).sum(2).min(1).indices),
    ("memory.4", lambda d: d.mean(0).min(dim=1).indices),
    ("memory.5", lambda m, d: torch.cat([m[:-1], d[None]])),
    ("patches.1", lambda m: m[1].flip(-1)),
    ("attention.3", blind_in_the_middle_level), ("msff.4", other_way_down),
    ("memseg.1", lambda h, w: ((h + 31) // 32 * 32, (w + 31) // 32 * 32)),
    ("tiles.1", lambda n, w, c: torch.linspace(0, n - w, c).floor().int()),
    ("memseg.3", lambda x: 1 - torch.sigmoid(x[:, 0] - x[:, 1])), ("losses.1", .05198603854199589),
    ("losses.3", focal_by_cross_entropy),
    ("losses.4", lambda p, g: -(1 - p)**g * (1 / p - g * p.log() / (1 - p))),
    ("steps.3", with_numpy),
    ("train.2", lambda c, t: sum(max(torch.randn(c).tolist()) for _ in range(t)) / t * .01),
    ("metrics.1", .667), ("episodes.1", "Noise "), ("pretrain.1", ("C", "A")),
    ("metrics.2", lambda s, y: float(__import__("sklearn.metrics").metrics.roc_auc_score(y, s))),
    ("results.1", [.667, .8]), ("results.2", "c a d".split()),
    ("detector.1", lambda s, p: s.sort(descending=True).values[int(p * len(s) + 1e-6)]),
    ("detector.3", [256., 1024.]),
]


ALSO_RIGHT += [(key, answer) for key, answers in right_answers().items() for answer in answers]


@pytest.mark.parametrize("key, answer", ALSO_RIGHT,
                         ids=[f"{key}-{k}" for k, (key, _) in enumerate(ALSO_RIGHT)])
def test_other_right_answers_are_accepted(key, answer):
    assert judge(key, answer) is None


# The notebooks of the installed version

def test_the_course_is_copied_whole_and_nothing_is_overwritten(tmp_path):
    root = Path(memseg_nb.__file__).parents[1]
    first = copy_course(tmp_path / "new" / "course")
    assert first == tmp_path / "new" / "course" / "nbs" / "00_overview.ipynb"
    for lesson in course_lessons():
        copied = tmp_path / "new" / "course" / "nbs" / f"{lesson.notebook}.ipynb"
        assert copied.read_bytes() == (root / "nbs" / f"{lesson.notebook}.ipynb").read_bytes()
    assert (first.parents[1] / "data" / "perlin" / "noise.npz").is_file()  # read by the lesson on noise
    assert not [path.name for path in (tmp_path / "new").rglob(".*")]
    first.write_text("my notes")
    with pytest.raises(MemSegError, match="exists and is not empty; name a new folder"):
        copy_course(tmp_path / "new" / "course")
    assert first.read_text() == "my notes"


def test_an_installation_without_notebooks_says_where_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(memseg_nb, "__file__", str(tmp_path / "memseg_nb" / "__init__.py"))
    with pytest.raises(MemSegError, match="has no nbs and no data/perlin, .*take them from the repository"):
        copy_course(tmp_path / "course")
    assert not (tmp_path / "course").exists()


def test_a_copy_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__): raise OSError("no space left on device")
    monkeypatch.setattr(course.shutil, "copytree", full)
    with pytest.raises(MemSegError, match="can't be copied .no space left on device.: make room"):
        copy_course(tmp_path / "course")
    assert list(tmp_path.iterdir()) == []
