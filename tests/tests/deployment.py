"""docker-compose.yml and what it mounts, the systemd units and the Prometheus configuration, without an engine.

Needs SNAPFERRY_TEST_BINARIES, the folder of the built programs.
"""

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"
BINARIES = Path(os.environ["SNAPFERRY_TEST_BINARIES"])
COMPOSE = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
OURS = {name: one for name, one in SERVICES.items() if "build" in one}
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
ANALYZE = shutil.which("systemd-analyze")


def run(*command, **more):
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **more)


def mounts(service):
    """Source and target of each of a service's volumes."""
    return [tuple(volume.split(":")[:2]) for volume in service.get("volumes", [])]


def mounted(service, target):
    """The repository's file that a container sees at a path."""
    return next(REPOSITORY / source for source, at in mounts(service) if at == target)


def config_of(service):
    program, option, target = service["command"]
    assert option == "--config"
    return program, mounted(service, target)


def read(service):
    return tomllib.loads(config_of(service)[1].read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A copy of deploy/ in which the certificates and secrets were made."""
    copy = tmp_path_factory.mktemp("copy") / "deploy"
    shutil.copytree(DEPLOY, copy, ignore=shutil.ignore_patterns("certificates", "secrets"))
    done = run("sh", copy / "make-certificates.sh", copy / "certificates")
    assert done.returncode == 0, done.stderr
    return copy


def secret(made, name):
    return (made.parent / COMPOSE["secrets"][name]["file"]).read_text()


def test_every_service_has_an_image_and_ours_can_be_built():
    assert set(OURS) == {"scheduler", "media-agent", "agent-1", "agent-2"}
    for service in SERVICES.values():
        assert service["image"]
    for service in OURS.values():
        context = REPOSITORY / service["build"]["context"]
        assert context.samefile(REPOSITORY) and (context / service["build"]["dockerfile"]).is_file()
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    copied = set(re.findall(r"/src/target/release/(\S+)", dockerfile))
    assert {config_of(service)[0] for service in OURS.values()} <= copied
    for program in copied:
        assert os.access(BINARIES / program, os.X_OK), program
    rust = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())["workspace"]["package"]["rust-version"]
    assert f"FROM rust:{rust}-" in dockerfile


def test_every_name_in_the_compose_file_is_declared():
    for name, service in SERVICES.items():
        wanted = service.get("depends_on", [])
        assert set(wanted) <= set(SERVICES), name
        for other in wanted if isinstance(wanted, dict) else []:
            if wanted[other]["condition"] == "service_healthy":
                assert SERVICES[other]["healthcheck"]["test"], f"{name} waits for {other} in vain"
        named = {source for source, _ in mounts(service) if not source.startswith(".")}
        assert named <= set(COMPOSE["volumes"]), name
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"]), name


def test_every_mounted_file_is_there_once_the_certificates_are_made(made):
    sources = [source for service in SERVICES.values() for source, _ in mounts(service) if source.startswith(".")]
    for source in sources + [one["file"] for one in COMPOSE["secrets"].values()]:
        assert (made.parent / source).exists(), source
        assert source.split("/")[-2] == "secrets" or "certificates" in source or (REPOSITORY / source).exists()


def test_every_service_has_the_secrets_that_it_reads_and_no_others():
    for name, service in SERVICES.items():
        texts = [json.dumps(service)]
        texts += [path.read_text() for source, _ in mounts(service) if (path := REPOSITORY / source).is_file()]
        assert set(re.findall(r"/run/secrets/(\w+)", "".join(texts))) == set(service.get("secrets", [])), name


def test_certificates_are_the_authoritys_for_the_hosts_that_are_called(made):
    folder = made / "certificates"
    for service in OURS.values():
        config = read(service)
        tls = next(part["tls"] for part in (config, config.get("lease", {}), config.get("agent", {})) if "tls" in part)
        cert, key, ca = (folder / Path(tls[what]).name for what in ("cert", "key", "ca"))
        assert run("openssl", "verify", "-CAfile", ca, cert).returncode == 0
        public = run("openssl", "x509", "-in", cert, "-noout", "-pubkey").stdout
        assert public and run("openssl", "pkey", "-in", key, "-pubout").stdout == public
    for host in ("scheduler", "media-agent"):
        done = run("openssl", "x509", "-in", folder / f"{host}.crt", "-noout", "-checkhost", host)
        assert "does match" in done.stdout
    assert (folder / "ca.key").stat().st_mode & 0o777 == 0o600


def test_certificates_and_secrets_are_made_once(made):
    files = [path for name in ("certificates", "secrets") for path in (made / name).iterdir() if path.suffix != ".srl"]
    before = {path: path.read_bytes() for path in files}
    assert len(before) == 8 + 5
    assert run("sh", made / "make-certificates.sh", made / "certificates").returncode == 0
    assert {path: path.read_bytes() for path in files} == before


def test_addresses_lead_to_the_service_that_listens_there(made):
    scheduler, media_agent = read(SERVICES["scheduler"]), read(SERVICES["media-agent"])
    agents = {name: read(service)["agent"] for name, service in SERVICES.items() if name.startswith("agent-")}
    listening = {("rabbitmq", 5672), ("postgres", 5432), ("s3", 9000)}
    for name, address in [
        ("scheduler", scheduler["http"]["listen"]),
        ("scheduler", scheduler["lease"]["listen"]),
        ("media-agent", media_agent["listen"]),
        ("media-agent", media_agent["metrics"]),
        *((name, agent["metrics_listen"]) for name, agent in agents.items()),
    ]:
        host, port = address.split(":")
        assert host == "0.0.0.0"
        listening.add((name, int(port)))
    called = [media_agent["scheduler"], media_agent["advertise"], media_agent["library"]["backend"]["s3"]["endpoint"]]
    called += [agent["scheduler"] for agent in agents.values()]
    called += [secret(made, "amqp_url"), secret(made, "database_url")]
    prometheus = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    scraped = {
        target for job in prometheus["scrape_configs"] for one in job["static_configs"] for target in one["targets"]
    }
    assert scraped == {"scheduler:7480", "media-agent:7483", "agent-1:7484", "agent-2:7484"}
    for url in called + [f"http://{target}" for target in scraped]:
        assert (urlsplit(url).hostname, urlsplit(url).port) in listening, url


def test_users_and_places_are_those_that_the_servers_are_set_up_with(made):
    database, postgres = urlsplit(secret(made, "database_url")), SERVICES["postgres"]["environment"]
    assert (database.username, database.path) == (postgres["POSTGRES_USER"], f"/{postgres['POSTGRES_DB']}")
    assert database.password == secret(made, "postgres_password")
    definitions = json.loads(mounted(SERVICES["rabbitmq"], "/etc/rabbitmq/definitions.json").read_text())
    amqp = urlsplit(secret(made, "amqp_url"))
    users = [(one["name"], one["password"]) for one in definitions["users"]]
    assert (amqp.username, amqp.password) in users
    rabbitmq = mounted(SERVICES["rabbitmq"], "/etc/rabbitmq/conf.d/20-snapferry.conf").read_text()
    assert "definitions.local.path = /etc/rabbitmq/definitions.json\n" in rabbitmq
    bucket = read(SERVICES["media-agent"])["library"]["backend"]["s3"]["bucket"]
    assert f" s3/{bucket}" in SERVICES["s3-bucket"]["command"][0]
    key = SERVICES["media-agent"]["environment"]["S3_ACCESS_KEY_ID"]
    assert key == SERVICES["s3"]["environment"]["MINIO_ROOT_USER"]


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_program_takes_its_mounted_configuration_and_its_services_environment(name, tmp_path):
    program, source = config_of(OURS[name])
    text = source.read_text()
    for place in ("/run/secrets", "/etc/snapferry/tls", "/var/lib/snapferry"):
        text = text.replace(place, str(tmp_path / Path(place).name))
    environment = {"PATH": os.environ["PATH"], **OURS[name].get("environment", {})}

    def start(text):
        config = tmp_path / "config.toml"
        config.write_text(text)
        done = run(BINARIES / program, "--config", config, env=environment)
        return done.returncode, done.stdout + done.stderr

    # Read and found good, it looks for the first secret, and there are none.
    code, said = start(text)
    assert code == 1 and f"{tmp_path}/secrets/" in said, said
    code, said = start(f"unheard_of = 1\n{text}")
    assert code == 2 and "unheard_of" in said, said


def test_agents_have_names_of_their_own():
    for name in ("agent-1", "agent-2"):
        assert OURS[name]["environment"] == {"SNAPFERRY_AGENT_AGENT__NAME": name}


def test_units_start_our_programs_with_a_configuration():
    assert [unit.stem for unit in UNITS] == ["snapferry-agent", "snapferry-media-agent", "snapferry-scheduler"]
    for unit in UNITS:
        start = re.search(r"^ExecStart=/usr/local/bin/(\S+) --config (\S+)$", unit.read_text(), re.MULTILINE)
        assert start[1] == unit.stem and (BINARIES / start[1]).exists()
        assert start[2] == f"/etc/snapferry/{unit.stem.removeprefix('snapferry-')}.toml"


@pytest.mark.skipif(ANALYZE is None, reason="systemd is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_has_nothing_to_say_about_a_unit(unit, tmp_path):
    def verify(text):
        copy = tmp_path / unit.name
        copy.write_text(text)
        done = run(ANALYZE, "verify", "--man=no", copy)
        # It reads the units of the machine, too, and has its words about them.
        return [line for line in (done.stdout + done.stderr).splitlines() if unit.name in line]

    # The program need not be installed here: one that is takes its place.
    text = unit.read_text().replace("/usr/local/bin/", f"{BINARIES}/")
    assert verify(text) == []
    assert any("ProtectHom" in line for line in verify(text.replace("ProtectHome", "ProtectHom")))
