"""Tests of the pipeline that ask no model: the answers were recorded once, with `--promptopt-record=new`."""

from __future__ import annotations

import pipeline
import pytest


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # run folders are made in the working folder


def test_finds_a_better_prompt(promptopt_recording):
    better = pipeline.better_prompt()
    assert "{{message}}" in better
    assert pipeline.accuracy(better) > pipeline.accuracy(pipeline.HERE / "prompt.md")


def test_the_prompt_in_use_is_good_enough(promptopt_recording):
    assert pipeline.accuracy(pipeline.HERE / "prompt.md") > 0.4
