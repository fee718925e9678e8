"""Class names in label files: how they are matched, what is said of unknown ones, and what `--unknown-labels drop` does."""

import json

import pytest
from label_standins import BrightEngine, five_pictures, label

from wsss_fast import cli
from wsss_fast._settings import SettingsError
from wsss_fast.data import labels as data_labels
from wsss_fast.data._problems import DataError
from wsss_fast.data.class_names import ClassNames
from wsss_fast.label.manifest import ManifestError, read_header, read_rows


@pytest.fixture
def folder(tmp_path):
    return five_pictures(tmp_path)


@pytest.fixture
def table(tmp_path):
    def written(text: str) -> dict[str, str]:
        path = tmp_path / "labels.csv"
        path.write_text(text)
        return {"labels": str(path)}

    return written


def test_names_are_matched_without_case_and_with_any_separator():
    names = ClassNames(["cat", "hot dog", "Ice_Cream", "T-Shirt", "A", "a"])
    found = [names.find(name) for name in ("CAT", " Hot_Dog ", "hot--dog", "ice cream", "t shirt", "a", "A")]
    assert found == [0, 1, 1, 2, 3, 5, 4]
    assert names.find("hotdog") is None and names.hint("hotdog") == "did you mean 'hot dog'?"
    assert names.find("a ") is None and names.hint("a ") == "could be 'A' or 'a'"  # only an exact name tells them apart
    assert names.find("unicorn") is None and names.hint("unicorn") == ""


def test_label_files_are_matched_so_in_all_their_forms(tmp_path):
    classes = ["cat", "traffic light"]
    (tmp_path / "a.csv").write_text("a.jpg,Cat;traffic_light\n")
    (tmp_path / "a.json").write_text(json.dumps({"a.jpg": ["CAT", "Traffic-Light"]}))
    (tmp_path / "folders" / "Cat").mkdir(parents=True)
    (tmp_path / "folders" / "Cat" / "a.jpg").touch()
    (tmp_path / "xml").mkdir()
    objects = "<object><name>Cat</name></object><object><name>Traffic light</name></object>"
    (tmp_path / "xml" / "a.xml").write_text(f"<annotation>{objects}</annotation>")
    for name in ("a.csv", "a.json", "xml"):
        assert list(data_labels.read_labels(tmp_path / name, classes=classes).indices.values()) == [(0, 1)]
    assert data_labels.read_labels(tmp_path / "folders", classes=classes).indices == {"Cat/a.jpg": (0,)}


def test_all_unknown_names_are_told_at_once(folder, table, tmp_path):
    given = table("img8.png,Bright;brihgt\nimg9.png,unicorn\nimg10.png,unicorn;brihgt;dark\n")
    with pytest.raises(DataError) as caught:
        label(folder, tmp_path / "out", **given)
    assert str(caught.value).splitlines() == [
        "labels: unknown classes in labels.csv:",
        "  'brihgt' of 2 images: did you mean 'bright'?",
        "  'unicorn' of 2 images",
        "Hint: --unknown-labels drop leaves such labels out",
    ]
    assert not (tmp_path / "out").exists()


def test_the_message_says_which_command_lists_the_classes(folder, table, capsys, tmp_path):
    given = table("img8.png,kitten\n")
    assert cli.main(["label", str(folder), "--labels", given["labels"], "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "'kitten' of img8.png\n" in error
    assert "`wsss classes efficientnet-lite0` lists the model's classes; --unknown-labels drop" in error


def test_dropped_labels_are_told_and_recorded(folder, table, tmp_path, caplog):
    given = table("img8.png,Bright;ghost\nimg9.png,unicorn\nimg10.png,unicorn;DARK\nimg11.png,\nimg12.png,bright\n")
    summary = label(folder, tmp_path / "out", **given, unknown_labels="drop")
    assert summary.labelled == 5
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line == (
        "labels that are no class of the model, dropped, with their images: 'ghost' (1), 'unicorn' (2); "
        "1 images without any other become background"
    )
    rows = read_rows(tmp_path / "out")
    assert [rows[f"img{number}.png"]["labels"] for number in (8, 9, 10, 11, 12)] == [[0], [], [1], [], [0]]
    assert read_header(tmp_path / "out")["dropped_labels"] == {"ghost": 1, "unicorn": 2}
    assert label(folder, tmp_path / "out", **given, unknown_labels="drop").skipped == 5
    with pytest.raises(DataError, match="unknown classes"):
        label(folder, tmp_path / "out", **given)
    given = table("img8.png,bright\nimg9.png,\nimg10.png,dark\nimg11.png,\nimg12.png,bright\n")
    with pytest.raises(ManifestError, match=r'settings\.unknown_labels: "drop" before, "stop" now'):
        label(folder, tmp_path / "out", **given)


def test_a_file_of_unknown_names_alone_is_no_background(folder, table, tmp_path):
    given = table("img8.png,ghost\nimg9.png,\n")
    with pytest.raises(DataError, match=r"'ghost' of img8\.png\nHint: no label is left"):
        label(folder, tmp_path / "out", **given, unknown_labels="drop")


def test_numbers_out_of_range_are_never_dropped(folder, table, tmp_path):
    with pytest.raises(DataError, match="class numbers out of range"):
        label(folder, tmp_path / "out", **table("img8.png,7\n"), unknown_labels="drop")
    with pytest.raises(SettingsError, match="'unknown_labels' must be one of stop, drop, got 'dorp'"):
        label(folder, tmp_path / "out", unknown_labels="dorp")


class TwoCases(BrightEngine):
    class_names = ("dark", "Dark")


def test_of_classes_that_differ_in_case_only_the_exact_name_is_meant(folder, table, tmp_path):
    label(folder, tmp_path / "out", TwoCases(), **table("img8.png,Dark\n"))
    assert read_rows(tmp_path / "out")["img8.png"]["labels"] == [1]
    with pytest.raises(DataError, match=r"'DARK' of img8\.png: could be 'dark' or 'Dark'"):
        label(folder, tmp_path / "other", TwoCases(), **table("img8.png,DARK\n"))
