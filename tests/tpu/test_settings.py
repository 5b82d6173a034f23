"""The settings of tpu/*.sh: what is refused, with its name; what they become in commands."""

import shlex

import pytest

from jaxllm.config_files import find_config

from . import repositories
from .cloud import ROOT, commands

WRONG = {
    "JAXLLM_PROJECT": [""],
    "JAXLLM_ZONE": ["", "us-west4", "us west4-a"],
    "JAXLLM_BUCKET": ["", "my-bucket", "s3://my-bucket", "gs://", "gs://my bucket"],
    "JAXLLM_NAME": ["Pod", "1pod", "pod_1", "pod-", "p" * 41, "--force"],
    "JAXLLM_ACCELERATOR": ["", "v3-8", "v5e", "v5p-", "v5p-1x", "tpu7x-8", "a100"],
    "JAXLLM_CAPACITY": ["cheap", "SPOT"],
    "JAXLLM_SLICES": ["0", "-1", "two", "1.5"],
    "JAXLLM_VALID_FOR": ["6", "6 hours"],
    "JAXLLM_LABELS": ["team", "Team=x", "a=b;c=d"],
    "JAXLLM_CONFIG": [""],
    "JAXLLM_RUN_DIR": ["runs/here", "/tmp/here"],
    "JAXLLM_CACHE": ["compiled"],
    "JAXLLM_MAX_RESTARTS": ["-1", "many", "08"],
    "JAXLLM_MAX_BACKOFF": ["1.5"],
    "JAXLLM_POLL": ["soon", "-1"],
    "JAXLLM_DELETE_TRIES": ["0"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_wrong_setting_is_refused_by_its_name(make_cloud, name, value):
    cloud = make_cloud()
    ended = cloud.run("create.sh", **{name: value})
    assert ended.code == 2, ended.err
    assert name in ended.err
    assert value in ended.err
    assert cloud.calls == []


def test_each_setting_of_the_example_is_explained_and_known(make_cloud, tmp_path):
    """The example is refused only until it names a project's own things, which it has."""
    text = (ROOT / "tpu/settings.env.example").read_text()
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if "=" in line and not line.startswith("#"):
            assert lines[number - 1].startswith("# "), f"{line} has no comment before it"
    config = next(line for line in lines if line.startswith("JAXLLM_CONFIG=")).partition("=")[2]
    assert find_config(config).exists()
    cloud = make_cloud()
    copy = tmp_path / "settings.env"
    copy.write_text(text)
    ended = cloud.run("create.sh", "--dry-run", "--settings", str(copy))
    assert ended.code == 0, ended.err


def test_a_misspelt_setting_is_refused(make_cloud, tmp_path):
    cloud = make_cloud()
    file = tmp_path / "mine.env"
    for line in ("JAXLLM_CAPACTY=spot", "export JAXLLM_Zone=x"):
        file.write_text(f"# mine\n{line}\n")
        ended = cloud.run("create.sh", "--dry-run", "--settings", str(file))
        assert ended.code == 2
        assert line.removeprefix("export ").partition("=")[0] in ended.err
    missing = cloud.run("create.sh", "--dry-run", "--settings", str(tmp_path / "none.env"))
    assert missing.code == 2
    assert "none.env" in missing.err
    assert cloud.calls == []


def test_the_environment_wins_over_the_file(make_cloud, tmp_path):
    file = tmp_path / "mine.env"
    file.write_text("JAXLLM_ZONE=us-east5-a\nJAXLLM_CAPACITY=on-demand\nJAXLLM_VALID_FOR=6h\n")
    created = creation(make_cloud(), "--settings", str(file), JAXLLM_CAPACITY="reserved")
    assert "--zone=us-west4-a" in created  # of SETTINGS, which are variables
    assert "--reserved" in created
    assert "--valid-until-duration=6h" in created


@pytest.mark.parametrize(
    ("accelerator", "asked", "runtime"),
    [
        ("v4-8", "v4-8", "tpu-ubuntu2204-base"),
        ("v5e-16", "v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v5litepod-256", "v5litepod-256", "v2-alpha-tpuv5-lite"),
        ("v5p-128", "v5p-128", "v2-alpha-tpuv5"),
        ("v6e-64", "v6e-64", "v2-alpha-tpuv6e"),
    ],
)
def test_each_kind_of_tpu_gets_its_image(make_cloud, accelerator, asked, runtime):
    created = creation(make_cloud(), JAXLLM_ACCELERATOR=accelerator)
    assert f"--accelerator-type={asked}" in created
    assert f"--runtime-version={runtime}" in created
    created = creation(make_cloud(), JAXLLM_ACCELERATOR=accelerator, JAXLLM_RUNTIME="mine")
    assert "--runtime-version=mine" in created


def test_capacity_slices_account_and_labels_are_asked_for(make_cloud):
    cloud = make_cloud()
    alone = creation(cloud, JAXLLM_CAPACITY="on-demand")
    assert "--node-id=pod" in alone
    assert "--labels=jaxllm=pod" in alone
    assert not {"--spot", "--reserved"} & set(alone)
    assert "--spot" in creation(cloud)
    several = creation(
        cloud,
        JAXLLM_SLICES="3",
        JAXLLM_SERVICE_ACCOUNT="me@my-project.iam.gserviceaccount.com",
        JAXLLM_LABELS="team=a,model=b",
    )
    assert {"--node-count=3", "--node-prefix=pod"} <= set(several)
    assert "--service-account=me@my-project.iam.gserviceaccount.com" in several
    assert "--labels=jaxllm=pod,team=a,model=b" in several


def creation(cloud, *arguments, **settings):
    """The call that asks for the slice, as a dry run shows it."""
    ended = cloud.run("create.sh", "--dry-run", *arguments, **settings)
    assert ended.code == 0, ended.err
    return next(call for call in commands(ended.out) if "create" in call)


def test_the_run_gets_its_config_folders_and_overrides(make_cloud):
    """Quotes keep words together; the command line comes last."""
    cloud = make_cloud()
    ended = cloud.run(
        "run.sh",
        "--dry-run",
        "optim.learning_rate=1e-3",
        "samples.prompts=['it''s', '$HOME']",
        JAXLLM_OVERRIDES="training.steps=7  'data.root=gs://my-bucket/a b'",
    )
    assert ended.code == 0, ended.err
    command = next(call[-1] for call in commands(ended.out) if "host_run.sh start" in call[-1])
    words = shlex.split(command.partition(" -- ")[2].removeprefix("--command="))
    assert words == [
        "demo",
        "run_dir=gs://my-bucket/runs/pod",
        "compilation_cache=gs://my-bucket/compiled",
        "training.steps=7",
        "data.root=gs://my-bucket/a b",
        "optim.learning_rate=1e-3",
        "samples.prompts=['it''s', '$HOME']",
    ]


@pytest.mark.parametrize("overrides", ["seed", "samples.prompts=it's", "--change x=1"])
def test_what_is_no_override_is_refused(make_cloud, overrides):
    cloud = make_cloud()
    for script in ("run.sh", "babysit.sh"):
        ended = cloud.run(script, JAXLLM_OVERRIDES=overrides)
        assert ended.code == 2, ended.err
        assert overrides.split()[0] in ended.err
    assert cloud.calls == []


def test_only_what_is_in_a_commit_is_shipped(make_cloud, tmp_path):
    repository = repositories.with_scripts(tmp_path / "changed")
    cloud = make_cloud(repository=repository)
    (repository / "pyproject.toml").write_text("# mine\n")
    ended = cloud.run("run.sh")
    assert ended.code == 2
    assert "commit" in ended.err
    for wrong in ("v9.9", "0" * 40):
        ended = cloud.run("run.sh", JAXLLM_COMMIT=wrong)
        assert ended.code == 2
        assert wrong in ended.err
    ended = cloud.run("run.sh", JAXLLM_COMMIT="HEAD", JAXLLM_CONFIG="no_such")
    assert ended.code == 2
    assert "no_such" in ended.err
    assert cloud.calls == []
