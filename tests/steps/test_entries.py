"""A config's methods: what an entry is, and what it shares with those above it."""

from __future__ import annotations

from valid_config import valid

from proxykv.config.run import Run


def test_a_variant_of_a_fitted_method_is_fitted_itself() -> None:
    variant = {
        "id": "proxykv_no_conv",
        "base": "proxykv",
        "params": {"mapper": {"variant": "linear"}},
    }
    run = Run(valid() | {"methods": ["full", "proxykv", variant]})
    assert run.fitted_ids == ("proxykv", "proxykv_no_conv")
    assert run.methods["proxykv_no_conv"].base == "proxykv"


def test_an_entry_takes_over_what_its_base_is_and_has_fitted() -> None:
    linear = {"id": "linear", "base": "proxykv", "params": {"mapper": {"variant": "linear"}}}
    methods = [
        *("full", "proxykv", "prior", linear),
        {"id": "linear_head", "base": "linear", "scope": "head"},
        {"id": "linear_layer", "base": "linear_head", "scope": "layer"},
        {"id": "linear_again", "base": "linear_head", "params": {"seed": 1}},
        {"id": "prior_head", "base": "prior", "scope": "head"},
        {"id": "cross_linear", "base": "cross_prior_budget", "params": {"ranking": "linear"}},
    ]
    run = Run(valid() | {"methods": methods})
    # The scope alone trains nothing; another parameter does.
    assert run.fitted_ids == ("proxykv", "prior", "linear", "linear_again")
    shared = {m.id: (m.scope, m.fitted_id) for m in run.methods.values() if m.fitted_id}
    assert shared == {
        "proxykv": ("global", "proxykv"),
        "prior": ("global", "prior"),
        "linear": ("global", "linear"),
        "linear_head": ("head", "linear"),
        "linear_layer": ("layer", "linear"),
        "linear_again": ("head", "linear_again"),
        "prior_head": ("head", "prior"),
    }
    assert run.methods["linear_layer"].params == linear["params"]
    assert run.methods["linear_again"].params == linear["params"] | {"seed": 1}
    assert run.methods["cross_linear"].uses == ("prior", "linear")


def test_other_parameters_than_a_shared_folder_was_fitted_with_are_fitted() -> None:
    """Though the catalogue says that the id shares ProxyKV's folder."""
    other = {"id": "mine", "base": "proxykv_shuffled", "params": {"steps": 9}}
    run = Run(valid() | {"methods": ["full", "proxykv", "proxykv_shuffled", other]})
    assert run.methods["proxykv_shuffled"].fitted_id == "proxykv"
    assert run.methods["mine"].fitted_id == "mine"
