"""The alarm for a wrong PatientSex and ensembles: in the engine, in files, and their measuring, with made-up networks.

Not covered: how well a real network tells the sex (``python -m training.sexes`` measures that on films).
"""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from inference import ensemble as ensembles
from inference.anatomy import BOX_NAMES, POINT_NAMES
from inference.bundle import Bundle
from inference.detector import FoundHand, Landmarks
from inference.eligibility import weigh
from inference.engine import Engine, LocatedHand, Reading, SexedHand
from inference.ensemble import Ensemble, read_members
from inference.errors import BundleError
from inference.finding import Estimate, ModelIdentity, Sex, Subject
from inference.intervals import Calibration
from inference.pose import Pose, template_points
from inference.sex_alarm import SexAlarm
from training import ensemble, sexes
from training.ensemble import write_ensemble
from training.errors import DataError, RunError
from training.evaluation.reading import film_of
from training.sexes import Answer, choose_logit, rates

IDENTITY = ModelIdentity("house", "House", "0.1.0", "ab" * 32)
CALIBRATION = Calibration(0.9, (0.0,), dict.fromkeys(Sex, (10.0,)), "made up")
POSE = Pose(np.array([[200.0, 0, 10], [0, 200, 10]]))
POINTS = POSE.to_film(template_points())
LANDMARKS = Landmarks(POINTS, np.ones(len(POINT_NAMES)), np.full((len(BOX_NAMES), 2), 0.1), POSE)
FOUND = FoundHand(POSE, 0.9, 0.0)
HAND = LocatedHand(FOUND, LANDMARKS, weigh(FOUND, LANDMARKS))
FILM = film_of(np.random.default_rng(2).integers(60, 200, (30, 30)).astype(np.uint8).repeat(8, 0).repeat(8, 1))


class FakeLocator:
    def locate(self, image):
        return [HAND], image, False


class FakeNetwork:
    """Says an age by sex and log odds of male, and keeps what it was asked."""

    def __init__(self, male_logit, boy=100.0, girl=80.0):
        self.male_logit, self.ages, self.asked = male_logit, {Sex.MALE: boy, Sex.FEMALE: girl}, []

    def read(self, hands):
        self.asked.append([hand.sex for hand in hands])
        return [Reading(self.ages[hand.sex], male_logit=self.male_logit) for hand in hands]


def subject(sex) -> Subject:
    return Subject(sex, "PatientSex (0010,0040)", None, "none")


@pytest.fixture(autouse=True)
def any_picture(monkeypatch):
    monkeypatch.setattr("inference.eligibility.doubt_picture", lambda _evidence: None)
    monkeypatch.setattr("inference.eligibility.flags_of_picture", lambda _evidence: [])


def interpret(network, alarm, sex=Sex.MALE):
    engine = Engine(FakeLocator(), network, CALIBRATION, IDENTITY, sex_alarm=alarm)
    finding = engine.interpret_film(FILM, subject(sex))
    assert isinstance(finding, Estimate)
    return finding, {flag.code: flag.sentence for flag in finding.flags}


def test_a_contradicted_sex_that_moves_the_age_is_flagged():
    """Given a film that looks like a girl's and says boy, when the age hangs on it, then a flag says by how much."""
    finding, flags = interpret(FakeNetwork(-2.0), SexAlarm(1.5))
    assert "20 months lower" in flags["sex-mismatch"]
    assert "PatientSex (0010,0040)" in flags["sex-mismatch"]
    assert finding.age_months == 100  # it is still the one by the header's sex


def test_a_girl_who_looks_like_a_boy_is_flagged_the_other_way():
    _, flags = interpret(FakeNetwork(2.0), SexAlarm(1.5), Sex.FEMALE)
    assert "20 months higher" in flags["sex-mismatch"]


@pytest.mark.parametrize(
    ("network", "alarm"),
    [
        (FakeNetwork(2.0), SexAlarm(1.5)),
        (FakeNetwork(-1.4), SexAlarm(1.5)),
        (FakeNetwork(-9.0, girl=89.0), SexAlarm(1.5)),
        (FakeNetwork(None), SexAlarm(1.5)),
        (FakeNetwork(-9.0), None),
    ],
    ids=["agrees", "not-sure", "age-hardly-moves", "no-estimate", "no-alarm"],
)
def test_otherwise_there_is_no_flag(network, alarm):
    _, flags = interpret(network, alarm)
    assert "sex-mismatch" not in flags


def test_only_doubtful_films_are_read_twice():
    network = FakeNetwork(2.0)
    engine = Engine(FakeLocator(), network, CALIBRATION, IDENTITY, sex_alarm=SexAlarm(1.5))
    findings = engine.interpret_films([(FILM, subject(sex)) for sex in (Sex.MALE, Sex.FEMALE, None, Sex.MALE)])
    assert network.asked == [[Sex.MALE, Sex.FEMALE, *Sex, Sex.MALE], [Sex.MALE]]  # an unknown sex by either
    assert [getattr(finding, "age_months", None) for finding in findings] == [100, 80, None, 100]
    assert [len(finding.flags) for finding in findings] == [1, 2, 1, 1]  # the side from the pixels; the sex


def test_no_films_give_no_findings():
    assert Engine(FakeLocator(), FakeNetwork(1.0), CALIBRATION, IDENTITY).interpret_films([]) == []


def test_an_alarm_is_read_from_a_calibration():
    assert SexAlarm.parse({}) is None
    assert SexAlarm.parse({"sex_alarm": {"logit": 1.5, "films": 99}}) == SexAlarm(1.5)


@pytest.mark.parametrize("table", [{}, {"logit": "much"}, {"logit": 0}, {"logit": float("nan")}, [1]])
def test_a_damaged_alarm_is_refused(table):
    with pytest.raises(BundleError, match="measure it again"):
        SexAlarm.parse({"sex_alarm": table})


def test_the_threshold_leaves_one_false_alarm_in_ten():
    """Given 99 boys of whom ten look like girls, then nine alarms are allowed (10 of 100, less the next film's)."""
    answers = [Answer(Sex.MALE, 3.0, 100, 80)] * 89 + [Answer(Sex.MALE, -x, 100, 80) for x in range(1, 11)]
    logit = choose_logit(answers)
    assert logit == pytest.approx(1.001)
    found = rates(answers, logit)
    assert found.false_alarm_rate == pytest.approx(9 / 99)
    assert found.noticed_rate == pytest.approx(89 / 99)
    assert found.right_sex_rate == pytest.approx(89 / 99)


def test_films_whose_age_does_not_move_neither_alarm_nor_count():
    answers = [Answer(Sex.FEMALE, 9.0, 100, 100)] * 50 + [Answer(Sex.FEMALE, -1.0, 100, 120)] * 2
    assert choose_logit(answers) == sexes.LEAST_LOGIT
    found = rates(answers, 0.4)
    assert (found.false_alarm_rate, found.moved, found.noticed_rate) == (0, 2, 1)


def test_both_sexes_of_a_film_are_asked_in_one_batch():
    network = FakeNetwork(0.5)
    engine = Engine(FakeLocator(), network, CALIBRATION, IDENTITY)
    film = SimpleNamespace(pixels=np.rint(FILM.pixels * 255).astype(np.uint8), reading=SimpleNamespace(sex=Sex.FEMALE))
    assert sexes.ask(engine, [film]) == [Answer(Sex.FEMALE, 0.5, 80, 100)]
    assert network.asked == [list(Sex)]
    with pytest.raises(DataError, match="does not estimate the sex"):
        sexes.ask(Engine(FakeLocator(), FakeNetwork(None), CALIBRATION, IDENTITY), [film])


def test_too_few_films_make_no_alarm(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(sexes.Engine, "load", classmethod(lambda *_, **__: None))
    monkeypatch.setattr(sexes, "load_half", lambda *_: [])
    monkeypatch.setattr(sexes, "ask", lambda *_: [Answer(Sex.MALE, 3.0, 100, 80)] * (sexes.LEAST_FILMS - 1))
    monkeypatch.setattr(sexes, "write_alarm", lambda *_: pytest.fail("the shipped alarm would go"))
    assert sexes.main(["--data", str(tmp_path), "--write"]) == 2
    assert "An alarm needs 30 films that are read; there are 29." in caplog.text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_rates_that_a_full_disk_does_not_take_are_told_all_the_same(tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.setattr(sexes.Engine, "load", classmethod(lambda *_, **__: None))
    monkeypatch.setattr(sexes, "load_half", lambda *_: [])
    monkeypatch.setattr(sexes, "ask", lambda *_: [Answer(Sex.MALE, 3.0, 100, 80)])
    assert sexes.main(["--data", str(tmp_path), "--json", "/dev/full"]) == 2
    assert "/dev/full cannot be written: No space left on device" in caplog.text
    assert "films: 1" in capsys.readouterr().out


@pytest.fixture
def measured(monkeypatch):
    """Enough films are asked, and the alarm would go into the shipped bundle."""
    monkeypatch.setattr(sexes.Engine, "load", classmethod(lambda *_, **__: None))
    monkeypatch.setattr(sexes, "load_half", lambda *_: [])
    monkeypatch.setattr(sexes, "ask", lambda *_: [Answer(Sex.MALE, 3.0, 100, 80)] * sexes.LEAST_FILMS)


def test_a_disk_that_takes_no_alarm_is_said_in_words(tmp_path, monkeypatch, caplog, measured):
    def full(*_) -> None:
        raise RunError("calibration.json cannot be written (No space left on device); make room")

    monkeypatch.setattr(sexes, "write_alarm", full)
    assert sexes.main(["--data", str(tmp_path), "--write"]) == 2
    assert "No space left on device" in caplog.text
    monkeypatch.setattr("training.storage.os.access", lambda *_: False)
    monkeypatch.setattr(sexes, "ask", lambda *_: pytest.fail("films would be read"))
    assert sexes.main(["--data", str(tmp_path), "--write"]) == 2
    assert "may not be written to" in caplog.text


def test_weights_that_are_exported_while_films_are_read_get_no_alarm(tmp_path, monkeypatch, caplog, measured):
    before = iter([("old", "detector"), ("new", "detector")])
    monkeypatch.setattr(sexes, "weights_of", lambda _: next(before))
    monkeypatch.setattr("training.bundle_intervals.weights_of", lambda _: next(before))
    monkeypatch.setattr(sexes, "write_alarm", lambda *_: pytest.fail("it is of the old weights"))
    assert sexes.main(["--data", str(tmp_path), "--write"]) == 2
    assert "run this command again" in caplog.text


def test_rates_that_are_none_are_null(tmp_path):
    path = tmp_path / "calibration.json"
    path.write_text("{}")
    sexes.write_alarm(path, rates([Answer(Sex.MALE, 3.0, 100, 100)], 1.5), "validation")
    assert json.loads(path.read_text())["sex_alarm"]["noticed_rate"] is None


def test_the_alarm_is_written_beside_the_intervals(tmp_path):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({"level": 0.9}))
    sexes.write_alarm(path, rates([Answer(Sex.MALE, 3.0, 100, 80)], 1.5), "validation")
    table = json.loads(path.read_text())
    assert table["level"] == 0.9
    assert table["sex_alarm"]["part"] == "validation"
    assert SexAlarm.parse(table) == SexAlarm(1.5)


def test_an_ensemble_is_the_weighted_mean():
    members = [(FakeNetwork(None, boy=100), 1.0), (FakeNetwork(3.0, boy=104), 2.0), (FakeNetwork(1.0, boy=108), 1.0)]
    (reading,) = Ensemble(members).read([SexedHand(FILM.pixels, HAND, Sex.MALE)])
    assert reading == Reading(104.0, None, 2.0)
    assert Ensemble(members).read([]) == []


def make_bundles(folder):
    for name, digit in (("global-local", "a"), ("house", "b")):
        configs = folder / name / "configs"
        configs.mkdir(parents=True)
        (configs / "metadata.json").write_text(json.dumps({"version": digit, "name": name, "weights_sha256": {}}))
        (configs / "inference.json").write_text("{}")
    return folder


def test_an_ensemble_opens_its_members_and_its_hash_names_them(tmp_path, monkeypatch):
    """Given a bundle that names two members, then both are opened, and other weights give another hash."""
    folder, opened = make_bundles(tmp_path), []
    monkeypatch.setattr("inference.torch_backend.TorchAgeNetwork", lambda name, *_: opened.append(name))
    hashes = []
    for weight in (1.0, 3.0):
        root = write_ensemble("both", {"house": weight, "global-local": 1.0}, folder)
        bundle = Bundle(root, json.loads((root / "configs" / "metadata.json").read_text()), {})
        network, digest = ensembles.open_network("both", bundle, torch.device("cpu"), folder)
        assert isinstance(network, Ensemble)
        hashes.append(digest)
    assert opened == ["global-local", "house"] * 2
    assert len(set(hashes)) == 2
    assert len(hashes[0]) == 64


def test_an_ensemble_of_unknown_or_of_ensembles_is_refused(tmp_path):
    folder = make_bundles(tmp_path)
    with pytest.raises(BundleError, match="no weights here"):
        write_ensemble("both", {"house": 1.0, "ala-net": 1.0}, folder)
    with pytest.raises(BundleError, match="name of a method"):
        write_ensemble("2m-net", {"house": 1.0, "global-local": 1.0}, folder)
    write_ensemble("both", {"house": 1.0, "global-local": 1.0}, folder)
    with pytest.raises(BundleError, match="ensemble itself"):
        write_ensemble("more", {"house": 1.0, "both": 1.0}, folder)


def test_other_weights_take_an_ensembles_intervals_away(tmp_path):
    """Given intervals of an ensemble, then the same ensemble written again keeps them, and another one does not."""
    folder = make_bundles(tmp_path)
    calibration = write_ensemble("both", {"house": 1.0, "global-local": 1.0}, folder) / "configs" / "calibration.json"
    calibration.write_text("{}")
    write_ensemble("both", {"global-local": 1.0, "house": 1.0}, folder)
    assert calibration.exists()
    write_ensemble("both", {"house": 1.0, "global-local": 9.0}, folder)
    assert not calibration.exists()


@pytest.mark.parametrize(
    ("name", "members", "words"),
    [
        ("both", {"house": -1.0, "global-local": 1.0}, "positive weights"),
        ("both", {"house": 1.0}, "two members or more"),
        ("both", {"house": 1.0, "hand-detector": 1.0}, "'hand-detector' is no method"),
        ("hand-detector", {"house": 1.0, "global-local": 1.0}, "no name for an ensemble"),
        ("../both", {"house": 1.0, "global-local": 1.0}, "no name for an ensemble"),
        ("..", {"house": 1.0, "global-local": 1.0}, "no name for an ensemble"),
        ("", {"house": 1.0, "global-local": 1.0}, "no name for an ensemble"),
        ("house+global-local", {"house": 2.0, "global-local": 1.0}, "no name for an ensemble"),
    ],
)
def test_what_makes_no_ensemble_is_refused_and_leaves_nothing(tmp_path, name, members, words):
    folder = make_bundles(tmp_path / "bundles")
    (folder / "house").rename(folder / "hand-detector")
    make_bundles(tmp_path / "more")
    (tmp_path / "more" / "house").rename(folder / "house")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BundleError, match=words):
        write_ensemble(name, members, folder)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (["house=0", "ala-net"], "'0' is no number above 0"),
        (["house=much", "ala-net"], "'much' is no number above 0"),
        (["house=2", "house=1"], "named twice"),
    ],
)
def test_members_that_are_written_wrongly_are_refused(members, words, capsys):
    with pytest.raises(SystemExit):
        ensemble.main(["both", *members])
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("members", [{"house": 1.0}, {"house": 1.0, "b": 0.0}, {"house": 1.0, "b": "x"}, [1, 2]])
def test_a_damaged_list_of_members_is_refused(tmp_path, members):
    with pytest.raises(BundleError, match="write it again"):
        read_members(Bundle(tmp_path, {"members": members}, {}))
