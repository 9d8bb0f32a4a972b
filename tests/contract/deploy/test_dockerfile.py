"""What the Dockerfile copies exists and reaches the build; what must not be in an image is not copied."""

import re

from tests.support import ROOT

LINES = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
IGNORE = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
LATER = {"client"}
"""Sources that another part of the project brings."""


def copied() -> set[str]:
    lines = [line.split()[1:-1] for line in LINES if line.startswith("COPY ") and "--from=" not in line]
    return {source for sources in lines for source in sources}


def stage(name: str) -> str:
    text = "\n".join(LINES)
    found = re.search(rf"^FROM \S+ AS {name}$(.*?)(?=^FROM |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, name
    return found[1]


def test_every_copied_path_exists_and_is_let_through() -> None:
    allowed = {line.removeprefix("!") for line in IGNORE if line.startswith("!")}
    for source in copied():
        assert (ROOT / source).exists() or source in LATER, source
        pattern = re.sub(r"requirements/[\w-]+\.txt", "requirements/*.txt", source)
        assert pattern in allowed, source


def test_serve_is_the_default_target_and_the_default_verb() -> None:
    assert [line.split()[-1] for line in LINES if line.startswith("FROM ")][-1] == "serve"
    assert 'CMD ["serve"]' in stage("serve") and 'CMD ["serve"]' in stage("train")


def test_entry_points_are_in_exec_form() -> None:
    for name in ("serve", "train", "page"):
        assert re.search(r'^ENTRYPOINT \["/opt/venv/bin/python", ', stage(name), re.MULTILINE), name


def test_every_installation_checks_hashes() -> None:
    installs = [part for line in LINES for part in line.split("&&") if re.search(r"-m pip --python \S+ install ", part)]
    assert len(installs) == 4 and all("--no-deps --require-hashes" in part for part in installs)
    assert "sh /build/scripts/install_torch.sh" in "\n".join(LINES), "which checks them, too"


def test_sagemaker_may_choose_the_port() -> None:
    for name in ("serve", "train"):
        assert "com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true" in stage(name)


def test_the_page_asks_no_other_service_than_the_configured_one() -> None:
    assert re.search(r"^ENV CLASSIFIER_FIXED=1$", stage("page"), re.MULTILINE)


def test_nothing_of_the_machine_is_written_into_the_images() -> None:
    text = "\n".join(LINES)
    assert "--mount=type=secret,id=pip" in text
    assert not re.search(r"^(ENV|ARG) .*(PIP_|PROXY|INDEX_URL)", text, re.MULTILINE | re.IGNORECASE)
