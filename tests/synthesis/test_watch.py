"""Divergence and collapse are seen, said, and gone back from."""

import re

import pytest
import torch
from small_training import SmallRecipe, SmallSettings, history, squares

from torchaug_gen.synthesis.training.loop import train
from torchaug_gen.synthesis.training.watch import Watch

SETTINGS = SmallSettings()


def run(out, settings=SETTINGS, *, hooks=(), recipe=None, resume=False):
    recipe = recipe or SmallRecipe(squares(), settings, hooks=hooks)
    train(recipe, recipe.images, settings, out=out, resume=resume, progress=False)
    return recipe


def once(happening):
    """Return a hook that does something the first time only."""
    left = [happening]
    return lambda recipe: left.pop()(recipe) if left else None


def diverge(recipe):
    return float("nan")


def flatten(recipe):
    for net in (recipe.net, recipe.averaged):
        torch.nn.init.zeros_(net.from_code[0].weight)


def widen(recipe):
    # The last layer too, which a network begins with at nearly nothing.
    for layer, std in ((recipe.averaged.from_code[0], 8), (recipe.averaged.decoder[-1], 0.2)):
        torch.nn.init.normal_(layer.weight, std=std, generator=torch.Generator().manual_seed(0))


def steps(recipe):
    return [step for step, _ in recipe.seen]


def test_a_loss_that_is_not_finite_rolls_back(tmp_path):
    with pytest.warns(RuntimeWarning, match="loss is nan at step 9: going back to step 8 with 0.5 of the learning"):
        recipe = run(tmp_path, hooks={9: once(diverge)})
    assert steps(recipe) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 9, 10, 11]
    positions = [position for _, rows in recipe.seen for position in rows]
    assert positions == list(range(4 * 14)), "the steps done again must meet other images and random numbers"
    event = history(tmp_path)[10]
    assert (event["event"], event["step"], event["to"]) == ("rolled back", 9, 8)
    assert "nan" in event["reason"]
    assert [line["step"] for line in history(tmp_path) if "event" not in line] == steps(recipe)


def test_a_recipe_finds_its_own_learning_rates(tmp_path):
    with pytest.warns(RuntimeWarning):
        recipe = run(tmp_path, hooks={1: once(diverge), 5: once(diverge)})
    groups = [group for optimizer in recipe.optimizers.values() for group in optimizer.param_groups]
    assert [group["lr"] for group in groups] == [SETTINGS.learning_rate] * 2
    assert not any("own_lr" in group for group in groups)


def test_halved_learning_rates_make_smaller_steps(tmp_path):
    def moved(hooks):
        recipe = SmallRecipe(squares(), SmallSettings(steps=2, checkpoint_every=1), hooks=hooks)
        first = recipe.optimizers["first"].param_groups[0]["params"][0]
        before = first.detach().clone()
        run(tmp_path / str(len(hooks)), recipe.settings, recipe=recipe)
        return float((first.detach() - before).norm())

    with pytest.warns(RuntimeWarning):
        assert moved({0: once(diverge)}) < 0.7 * moved({})


def test_a_training_that_fails_again_and_again_ends(tmp_path):
    with (
        pytest.warns(RuntimeWarning) as warned,
        pytest.raises(RuntimeError, match=r"nan at step 9, after going back 3 times .*: lower the learning rate"),
    ):
        run(tmp_path, hooks={9: diverge})
    # First to the last good checkpoint, then to the one before.
    went = [int(re.search(r"to step (\d+)", str(w.message))[1]) for w in warned]
    assert went == [8, 4, 8]
    assert not (tmp_path / "config.json").exists()
    with pytest.raises(RuntimeError, match="nan at step 2: lower the learning rate"):
        run(tmp_path, SmallSettings(max_rollbacks=0), hooks={2: diverge})


def test_a_failure_before_any_checkpoint_starts_from_the_beginning(tmp_path):
    with pytest.warns(RuntimeWarning, match="going back to step 0"):
        recipe = run(tmp_path, hooks={1: once(diverge)})
    assert steps(recipe)[:4] == [0, 1, 0, 1]


def test_a_resumption_knows_of_the_rollback(tmp_path):
    class Stop(Exception):
        pass

    def stop(recipe):
        raise Stop

    with pytest.warns(RuntimeWarning):
        run(tmp_path / "whole", hooks={9: once(diverge)})
    with pytest.warns(RuntimeWarning), pytest.raises(Stop):
        run(tmp_path / "broken", hooks={9: once(diverge), 10: stop})
    recipe = run(tmp_path / "broken", resume=True)
    assert recipe.seen[0] == (8, [40, 41, 42, 43])
    one, other = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "broken"))
    assert one == other


def test_a_weight_that_is_not_finite_is_never_saved(tmp_path):
    def spoil(recipe):
        recipe.net.from_code[0].weight.data[0, 0] = float("inf")

    with pytest.warns(RuntimeWarning, match="a weight is not finite: going back to step 4"):
        run(tmp_path, hooks={7: once(spoil)})


def test_a_recipes_own_verdict_counts(tmp_path):
    class Strict(SmallRecipe):
        def verdict(self, losses, step):
            return f"the loss {losses['loss']:.1f} is too high" if losses["loss"] > 5 else None

    settings = SmallSettings(steps=80, checkpoint_every=40)
    # A single bad step is no verdict: losses are averaged first.
    run(tmp_path, settings, recipe=Strict(squares(), settings, hooks={60: once(lambda _: 9.0)}))
    high = {step: once(lambda _: 99.0) for step in range(60, 64)}
    with pytest.warns(RuntimeWarning, match="is too high at step 62: going back to step 40"):
        run(tmp_path, settings, recipe=Strict(squares(), settings, hooks=high))


def test_samples_that_become_all_alike_are_seen(tmp_path):
    with pytest.warns(RuntimeWarning, match=r"samples are nearly all alike: .* 0.00 .*: going back to step 4"):
        recipe = run(tmp_path, hooks={2: widen, 6: once(flatten)})
    assert steps(recipe)[8:10] == [4, 5]


def test_samples_that_were_never_different_are_said_at_the_end_only(tmp_path):
    with pytest.warns(RuntimeWarning, match="samples are nearly all alike") as warned:
        recipe = run(tmp_path, SmallSettings(steps=50), hooks=dict.fromkeys(range(50), flatten))
    assert len(warned) == 1 and "look at them" in str(warned[0].message)
    assert steps(recipe) == list(range(50))


def test_a_loss_that_explodes_is_seen():
    recipe = SmallRecipe(squares(), SETTINGS)
    watch = Watch(recipe, recipe.images, seed=0)
    assert watch.losses({"loss": -3e5}, 0) is None
    trouble = [watch.losses({"loss": 2e9}, step) for step in range(1, 9)]
    assert "the loss loss has grown to" in next(filter(None, trouble))


def test_diversity_is_that_of_samples_over_that_of_real_images():
    recipe = SmallRecipe(squares(), SETTINGS)
    watch = Watch(recipe, recipe.images, seed=0)
    widen(recipe)
    wide = watch.diversity(recipe.synthesizer())
    with torch.no_grad():
        recipe.averaged.decoder[-1].weight *= 0.1
    assert 0 < watch.diversity(recipe.synthesizer()) < wide
    flatten(recipe)
    assert watch.diversity(recipe.synthesizer()) < 1e-4


@pytest.mark.parametrize("images", [squares(1, 1), squares(2, 2)])
def test_single_images_say_nothing_about_diversity(images):
    recipe = SmallRecipe(images, SETTINGS)
    watch = Watch(recipe, images, seed=0)
    assert watch.samples(recipe.synthesizer()) is None


def test_what_is_remembered_is_json_and_comes_back():
    recipe = SmallRecipe(squares(), SETTINGS)
    one, other = (Watch(recipe, recipe.images, seed=0) for _ in range(2))
    for step in range(60):
        assert one.losses({"loss": step / 3}, step) is None
    one.samples(recipe.synthesizer())
    other.load_state_dict(one.state_dict())
    assert other.state_dict() == one.state_dict()
    assert 0 < one.state_dict()["averages"]["loss"] < 20
