"""What the ablation takes away from global-local, and equalisation from house. Not covered: what they are worth."""

import numpy as np
import pytest
import torch

from inference.errors import BundleError
from inference.global_local import GlobalLocalNet
from inference.method import open_method
from inference.pose import Pose, template_points
from inference.preparation import roi_centres
from training.recipe import read_recipe

FULL = read_recipe("global-local")
RECIPES = {
    "global-local-no-equalisation": ({"equalise": False}, ((224, 224), (18, 64, 64))),
    "global-local-global-only": ({"paths": "global"}, ((224, 224),)),
    "global-local-local-only": ({"paths": "local"}, ((18, 64, 64),)),
    "global-local-global-only-no-equalisation": ({"paths": "global", "equalise": False}, ((224, 224),)),
    "global-local-local-only-no-equalisation": ({"paths": "local", "equalise": False}, ((18, 64, 64),)),
}
POSE = Pose(np.array([[360.0, 0, -20], [0, 360.0, 10]]))
FILM = np.random.default_rng(1).integers(40, 90, (400, 320)).astype(np.uint8)
CENTRES = roi_centres(POSE.to_film(template_points()), POSE)


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_changes_its_switches_alone(name):
    """Given an ablation's recipe, then only its switches differ, and the network takes what is prepared."""
    recipe, (switch, shapes) = read_recipe(name), RECIPES[name]
    assert recipe.method == FULL.method | switch
    assert (recipe.target, recipe.loss) == (FULL.target, FULL.loss)
    method = open_method(recipe.target, recipe.method | {"width": 0.0625})
    prepared = method.prepare(FILM, POSE, CENTRES)
    assert tuple(part.shape for part in prepared) == shapes
    images = [torch.from_numpy(part).float() / 127.5 - 1 for part in prepared]
    batch = [image[None] if image.ndim == 3 else image[None, None] for image in images]
    net = method.make_net().eval()
    assert net(*batch, torch.tensor([1.0])).age_months.shape == (1,)


def test_without_equalisation_grey_values_stay():
    plain, _ = open_method("global-local", {"width": 0.25, "equalise": False}).prepare(FILM, POSE, CENTRES)
    flat, _ = open_method("global-local", {"width": 0.25}).prepare(FILM, POSE, CENTRES)
    assert plain.max() < 90
    assert flat.max() == 255


def test_house_leaves_grey_values_alone_where_asked_to():
    config = {"rows": 96, "columns": 64, "variant": "lite0"}
    (plain,) = open_method("house", config | {"equalise": False}).prepare(FILM, POSE, CENTRES)
    (flat,) = open_method("house", config).prepare(FILM, POSE, CENTRES)
    assert plain.shape == flat.shape == (96, 64)
    assert plain.max() < 90
    assert flat.max() == 255


def test_a_network_without_a_pathway_is_smaller_by_more_than_that_pathway():
    """Given one pathway less, then the last convolutions see half the channels, too."""

    def parameters(paths):
        with torch.device("meta"):
            return sum(p.numel() for p in GlobalLocalNet(0.25, paths=paths).parameters())

    assert parameters("global") < parameters("both")
    assert parameters("local") < parameters("both")
    assert parameters("global") + parameters("local") < 1.3 * parameters("both")


def test_an_unknown_pathway_is_refused():
    with pytest.raises(BundleError, match="both, global, local"):
        open_method("global-local", {"width": 0.25, "paths": "none"})
