"""Methods, runs and kept evaluations side by side. Does not cover what the shipped models do on films."""

import json
from dataclasses import replace

import pytest
import torch

from dicom_node.cli import DELEGATED, build_parser
from inference.bundle import open_bundle
from inference.method import method_names, open_method
from training import compare as command
from training.compare import (
    compare,
    comparison_page,
    gain,
    group_notes,
    group_rows,
    roi_rows,
    summary_rows,
)
from training.errors import DataError, RunError
from training.evaluation.ablation import ablation_rows
from training.evaluation.contestants import Computing, Contestant, common_films, from_evaluation, from_run
from training.evaluation.papers import own_groups, paper_cells, paper_of, read_papers
from training.evaluation.reading import Row
from training.terms import SITE_FILMS

COST = {"parameters": 7_800_000, "megabytes": 19.4, "threads": 2, "device": "cpu"}
FULL = {"width": 0.25}


def contestant(label: str, errors: list[float], *, first_id: int = 1, method: str = "house") -> Contestant:
    rows = [
        Row(first_id + i, "MF"[i % 2], 50.0 + 10 * i, 50.0 + 10 * i + error, 40.0 + 10 * i, 60.0 + 10 * i, None, 60.0)
        for i, error in enumerate(errors)
    ]
    return Contestant(label, method, FULL, rows, COST)


ERRORS = [3.0, -2, 4, 5, -6, 1, 8, 2, -9, 3]


def test_figures_are_of_the_films_that_all_were_shown():
    """Given two contestants of which one saw two films more, then both are judged on the others."""
    one, other = contestant("a", ERRORS), contestant("b", ERRORS[2:], first_id=3)
    shifted = Contestant("b", "house", FULL, [row for row in one.rows if row.rsna_id >= 3], COST)
    found = compare([one, shifted], "test")
    assert found["films"] == 8
    assert [c["table_3"]["all"]["total"]["films"] for c in found["contestants"]] == [8, 8]
    with pytest.raises(DataError, match="other readings"):
        common_films([one, other])  # the same numbers, other children
    with pytest.raises(DataError, match="no film in common"):
        common_films([one, contestant("c", ERRORS, first_id=100)])


def test_the_gain_is_paired_over_films():
    """Given errors smaller by 2 months on each film, then the gain is 2 and certain, whatever the errors' spread."""
    one, other = contestant("a", [20.0, 30, 4, 50]), contestant("b", [18.0, 28, 2, 48])
    assert gain(other, one) == {"films": 4, "months": 2.0, "reach_months": 0.0}
    assert gain(one, one) is None


def test_every_paper_is_of_a_method_and_says_what_it_measured_on():
    papers = read_papers()
    assert set(papers) == set(method_names()) - {"house"}
    assert all(paper["data"] and paper["source"] and paper["mae_months"] > 0 for paper in papers.values())


HUI_TABLE_3 = {
    # years: MAE of boys, girls, both; RMSE of boys, girls, both
    "(4, 6]": (0.195, 0.455, 0.301, 0.291, 0.554, 0.418),
    "(6, 8]": (0.54, 0.424, 0.455, 0.69, 0.542, 0.585),
    "(8, 10]": (0.521, 0.445, 0.469, 0.736, 0.591, 0.641),
    "(10, 12]": (0.8, 0.43, 0.482, 0.992, 0.557, 0.635),
    "(12, 14]": (0.368, 0.519, 0.418, 0.536, 0.639, 0.572),
    "(14, 16]": (0.518, 0.616, 0.561, 0.637, 0.818, 0.722),
    "(16, 18]": (0.412, 0.639, 0.484, 0.587, 0.765, 0.649),
    "all": (0.427, 0.455, 0.444, 0.617, 0.588, 0.599),
}
JIA_TABLE_2 = {
    "0\N{EN DASH}3": (0.95, 0.99),
    "4\N{EN DASH}7": (0.72, 0.78),
    "8\N{EN DASH}11": (0.48, 0.54),
    "12\N{EN DASH}15": (0.57, 0.62),
    "16\N{EN DASH}18": (0.94, 1.22),
    "2\N{EN DASH}18": (0.59, 0.67),
    "all": (0.61, 0.69),
}


def in_months(years: tuple[float, ...]) -> object:
    return pytest.approx([12 * value for value in years], abs=0.006)


def test_hui_in_years_is_hui_in_months():
    paper = read_papers()["global-local"]
    told = paper["groups_mae_rmse_months"]
    assert set(told) == set(HUI_TABLE_3)
    for group, years in HUI_TABLE_3.items():
        for place, sex in enumerate(("male", "female", "total")):
            assert told[group][sex] == in_months((years[place], years[place + 3])), (group, sex)
    assert told["all"]["total"] == [paper["mae_months"], paper["rmse_months"]]
    table_4 = (0.813, 0.68, 0.658, 0.6, 0.467, 0.444)
    assert [row["in_house_mae_months"] for row in paper["ablation"]] == in_months(table_4)
    assert [row["rsna_mae_months"] for row in paper["ablation"]] == in_months((0.854, 0.735, 0.712, 0.68, 0.53, 0.512))


def test_jia_in_years_is_jia_in_months():
    paper = read_papers()["precise-baa"]
    told = paper["groups_mae_rmse_months"]
    assert set(told) == set(JIA_TABLE_2)
    for group, years in JIA_TABLE_2.items():
        assert told[group]["total"] == in_months(years), group
    assert told["all"]["total"] == [paper["mae_months"], paper["rmse_months"]]


def test_the_other_papers_tell_what_they_tell():
    """Li et al. in the text and Table 2, Liu et al. in Table 6 and the abstract, Wang et al. in Tables 1 and 2."""
    papers = read_papers()
    assert papers["unsupervised-mobilenet"]["parameters"] == 7_600_000
    assert papers["unsupervised-mobilenet"]["mae_months"] == 6.2
    sexes = {"male": [3.89, None], "female": [4.07, None], "total": [3.98, None]}
    assert papers["2m-net"]["groups_mae_rmse_months"] == {"all": sexes}
    assert (papers["2m-net"]["mae_months"], papers["2m-net"]["parameters"]) == (3.98, 11_800_000)
    assert papers["ala-net"]["mae_months"] == 3.91
    assert [papers["ala-net"]["roi"][key] for key in ("ap", "ap50", "ap75")] == [0.892, 0.980, 0.980]


def test_a_sites_films_are_not_called_this_projects(tmp_path, capsys):
    """Given evaluations of a site's films, then beside the papers' data these are named, and no split of RSNA's."""
    file = write_evaluation(tmp_path / "gl.json", contestant("a", ERRORS, method="global-local"), "site")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"terms": {"films": SITE_FILMS}}))
    assert command.main([str(file)]) == 0
    printed = capsys.readouterr().out
    assert "films of the part 'site': a site's own films" in printed
    assert "split of RSNA" not in printed


def test_a_papers_figures_by_age_and_by_sex_stand_below_its_method():
    """Given Hui et al., then MAE and RMSE of its age groups stand beside ours, for boys, girls and both."""
    comparison = compare([contestant("a", ERRORS, method="global-local"), contestant("b", ERRORS)], "test")
    both, male, female = (group_rows(comparison, sex) for sex in ("total", "male", "female"))
    assert [row[0] for row in both] == [row[0] for row in male] == ["a", "  paper", "b"]
    assert both[1][1:4] == ("\N{EN DASH}", "3.6 / 5.0", "5.5 / 7.0"), "none below 4 years, (4, 6], (6, 8]"
    assert both[1][-2:] == ("5.8 / 7.8", "5.3 / 7.2"), "its (16, 18] beside (16, 19], all"
    assert (male[1][5], female[1][5]) == ("9.6 / 11.9", "5.2 / 6.7"), "(10, 12]"
    assert (male[1][-1], female[1][-1]) == ("5.1 / 7.4", "5.5 / 7.1")
    assert any("(16, 18] stand beside" in note for note in group_notes(comparison))


def test_a_papers_own_age_groups_stand_below_the_table():
    """Given Jia et al., whose groups are whole years, then only all ages stand in the table, of both sexes together."""
    comparison = compare([contestant("a", ERRORS, method="precise-baa"), contestant("b", ERRORS)], "test")
    assert group_rows(comparison, "total")[1] == ("  paper", *["\N{EN DASH}"] * 8, "7.3 / 8.3")
    assert [row[0] for row in group_rows(comparison, "male")] == ["a", "b"]
    (note,) = group_notes(comparison)
    assert "0\N{EN DASH}3 11.4 / 11.9, 4\N{EN DASH}7 8.6 / 9.4" in note
    assert note in comparison_page(comparison)
    assert group_notes(compare([contestant("b", ERRORS)], "test")) == []


def test_a_paper_without_rmse_stands_with_its_mae():
    paper = read_papers()["2m-net"]
    groups = ["(0, 4]", "all"]
    assert paper_cells(paper, groups, "male") == ["\N{EN DASH}", "3.9"]
    wang = read_papers()["ala-net"]
    assert paper_cells(wang, groups, "total") == ["\N{EN DASH}", "3.9"]
    assert paper_cells(wang, groups, "female") is None
    assert own_groups(wang, groups) is None


ROI = dict.fromkeys(("precision", "recall", "f1", "ap", "ap50", "ap75", "centre_median", "within_3_percent"), 0.5)


def test_a_paper_stands_below_its_own_methods_regions_only():
    """Given a method with figures of regions and one without, then the other's paper is left out."""
    measured = contestant("a", ERRORS, method="precise-baa")
    measured = replace(measured, rois={"detector": "shared", "shared": ROI | {"films": 81}})
    comparison = compare([measured, contestant("b", ERRORS, method="ala-net")], "test")
    assert [row[0] for row in roi_rows(comparison)] == ["a", "  paper"]
    assert roi_rows(comparison)[1][1] == "13 regions, its mAP"


def test_unconverged_methods_are_labelled(tmp_path):
    """Given an evaluation of unconverged weights, then label, comparison and page say it, of that method alone."""
    path = write_evaluation(tmp_path / "x.json", contestant("a", ERRORS, method="2m-net"))
    table = json.loads(path.read_text())
    path.write_text(json.dumps(table | {"model": {"method": "2m-net", "version": "0.1.0-unconverged+site.1"}}))
    kept, _ = from_evaluation(path)
    comparison = compare([kept, contestant("b", ERRORS)], "test")
    assert [(one["label"], one["converged"]) for one in comparison["contestants"]] == [
        ("2m-net (x) (unconverged)", False),
        ("b", True),
    ]
    assert "Unconverged methods were given too little" in comparison_page(comparison)
    assert "nconverged" not in comparison_page(compare([contestant("b", ERRORS)], "test"))


def test_an_ablation_stands_beside_its_own_row_of_table_4():
    assert paper_of("global-local", FULL)["mae_months"] == 5.33
    assert paper_of("global-local", FULL | {"equalise": False})["mae_months"] == 7.90
    assert paper_of("global-local", FULL | {"paths": "local"})["mae_months"] == 5.60
    assert paper_of("house", {}) is None


def test_the_ablation_stands_as_table_4_has_it():
    """Given three of six configurations, then each has its place and its paper's figure, the others a dash."""
    tried = [{}, {"equalise": False}, {"paths": "local"}]
    ones = [
        replace(contestant(str(place), [(place + 1) * e for e in ERRORS], method="global-local"), config=FULL | config)
        for place, config in enumerate(tried)
    ]
    mean = sum(abs(e) for e in ERRORS) / len(ERRORS)
    plain, plain_paper, equal, equal_paper = ablation_rows(compare(ones, "test"))
    assert plain == ("as it is", "\N{EN DASH}", "\N{EN DASH}", f"{2 * mean:.1f}")
    assert plain_paper[1:] == ("\N{EN DASH}", "\N{EN DASH}", "8.54")
    assert equal[1:] == ("\N{EN DASH}", f"{3 * mean:.1f}", f"{mean:.1f}")
    assert equal_paper[1:] == ("\N{EN DASH}", "6.36", "6.14")
    assert "What equalisation and pathways are worth" in comparison_page(compare(ones, "test"))
    assert ablation_rows(compare(ones[:1], "test")) == []


def write_evaluation(path, one: Contestant, part: str = "test"):
    rows = [{key: getattr(row, key) for key in Row.__dataclass_fields__} for row in one.rows]
    table = {"model": {"method": one.method}, "config": one.config, "cost": one.cost, "part": part, "rows": rows}
    path.write_text(json.dumps(table))
    return path


def test_the_command_compares_kept_evaluations(tmp_path, capsys):
    files = [
        write_evaluation(tmp_path / "gl.json", contestant("a", ERRORS, method="global-local")),
        write_evaluation(tmp_path / "house.json", contestant("b", [0.5 * e for e in ERRORS])),
    ]
    kept, page = tmp_path / "comparison.json", tmp_path / "comparison.html"
    arguments = [*map(str, files), "--json", str(kept), "--report", str(page)]
    assert command.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "global-local (gl)" in printed
    assert "paper: Hui et al." in printed
    assert "1,021 films of one Chinese hospital" in printed
    found = json.loads(kept.read_text())
    first, second = found["contestants"]
    assert first["paper"]["mae_months"] == 5.33
    assert second["gain_over_first"]["months"] == pytest.approx(first["table_3"]["all"]["total"]["mae_months"] / 2)
    assert len(summary_rows(found)) == 3
    text = page.read_text()
    assert "Research use only" in text
    assert text.count("<svg") == 2


@pytest.mark.parametrize("option", ["--json", "--report"])
def test_a_place_that_cannot_be_written_is_said_before_films_are_read(tmp_path, monkeypatch, caplog, option):
    """Given a folder that is not there, then nobody waits for hours of reading to be told so."""
    monkeypatch.setattr(command, "_gather", lambda _: pytest.fail("films were read"))
    assert command.main(["house", "--data", str(tmp_path), option, str(tmp_path / "no" / "file")]) == 2
    assert "make it first" in caplog.text


def test_evaluations_of_two_parts_are_not_compared(tmp_path):
    files = [
        write_evaluation(tmp_path / f"{part}.json", contestant("a", ERRORS), part) for part in ("test", "validation")
    ]
    assert command.main([str(file) for file in files]) == 2
    assert command.main([str(files[1]), "house"]) == 2, "a method would read the test part"
    assert command.main([str(files[1]), str(files[1])]) == 0


@pytest.mark.parametrize("what", ["missing.json", "no-such-run"])
def test_what_cannot_be_found_is_named(tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    assert command.main([what]) == 2


def test_a_run_that_is_none_is_named_before_films_are_read(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(command, "load_half", lambda *_: pytest.fail("films were read"))
    assert command.main(["house", str(tmp_path / "mine"), "--data", str(tmp_path)]) == 2
    assert "mine is no run's folder" in caplog.text


def test_methods_need_films():
    assert command.main(["global-local"]) == 2


def test_a_broken_evaluation_is_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"rows": []}')
    with pytest.raises(DataError, match="no evaluation"):
        from_evaluation(tmp_path / "x.json")


def test_two_labels_alike_get_numbers():
    made = command._distinct([contestant("a", ERRORS), contestant("b", ERRORS), contestant("a", ERRORS)])
    assert [one.label for one in made] == ["a 1", "b", "a 2"]


def test_a_run_is_read_without_an_export(tmp_path):
    """Given a run's folder with weights, then its films are read by a bundle made on the fly, without intervals."""
    method = {"width": 0.0625, "paths": "local"}
    recipe = {"target": "global-local", "method": method}
    (tmp_path / "run.json").write_text(json.dumps({"recipe": recipe}))
    torch.manual_seed(1)
    torch.save(open_method("global-local", method).make_net().state_dict(), tmp_path / "final.pt")
    made = from_run(tmp_path, [], Computing(1, "cpu"))
    assert (made.label, made.method, made.converged) == (tmp_path.name, "global-local", True)
    assert made.config == method
    assert 0 < made.cost["parameters"] < 1_000_000
    assert "local-only" not in open_bundle("global-local").metadata["name"]
    assert paper_of(made.method, made.config)["mae_months"] == 5.60


@pytest.mark.parametrize("ended", [True, False])
def test_a_run_that_has_not_ended_is_labelled_as_unconverged(tmp_path, ended):
    """Given a run with or without its final weights, then its label says which it is, by its bundle's version."""
    method = {"width": 0.0625, "paths": "local"}
    phases = [{"name": "a", "epochs": 9}]
    (tmp_path / "run.json").write_text(
        json.dumps({"recipe": {"target": "global-local", "method": method, "phases": phases}})
    )
    state = open_method("global-local", method).make_net().state_dict()
    (tmp_path / "a").mkdir()
    torch.save({"epoch": 0, "best": (1.0, state), "average": {}}, tmp_path / "a" / "checkpoint.pt")
    if ended:
        torch.save(state, tmp_path / "final.pt")
    made = from_run(tmp_path, [], Computing(1, "cpu"))
    assert (made.label, made.converged) == (tmp_path.name + ("" if ended else " (unconverged)"), ended)


def test_a_detectors_run_is_refused(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"target": "finder", "schedule": {}}))
    with pytest.raises(RunError, match="no run of an age method"):
        from_run(tmp_path, [], Computing(1, "cpu"))


def test_the_commands_are_known():
    assert DELEGATED["compare"] == "training.compare"
    assert DELEGATED["calibrate"] == "training.calibrate"
    assert "compare" in build_parser().format_help()
